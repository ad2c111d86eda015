"""Converts files of images, sounds and texts to the arrays that a network takes, as in its pretraining."""

from etils import epy

with epy.lazy_api_imports(globals()):
    from jtl.preprocess import answer_windows as answer_windows
    from jtl.preprocess import audio as audio
    from jtl.preprocess import characters as characters
    from jtl.preprocess import conll as conll
    from jtl.preprocess import image as image
    from jtl.preprocess import label_maps as label_maps
    from jtl.preprocess import next_tokens as next_tokens
    from jtl.preprocess import pixels as pixels
    from jtl.preprocess import squad as squad
    from jtl.preprocess import text as text
    from jtl.preprocess import words as words
