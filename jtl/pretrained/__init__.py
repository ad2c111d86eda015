"""Loads, saves, inspects and recognises pretrained networks."""

from etils import epy

with epy.lazy_api_imports(globals()):
    from jtl.pretrained import coop as coop
    from jtl.pretrained import sentence_embedding as sentence_embedding
    from jtl.pretrained import zero_shot as zero_shot
