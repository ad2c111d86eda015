"""From files to the arrays a network takes: images, sounds and texts, as the weights were trained with."""

from etils import epy

with epy.lazy_api_imports(globals()):
    from jtl.preprocess import audio as audio
    from jtl.preprocess import image as image
    from jtl.preprocess import pixels as pixels
    from jtl.preprocess import text as text
