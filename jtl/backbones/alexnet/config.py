"""AlexNet, from torchvision's files."""

from jtl.backbones.alexnet.network import alexnet
from jtl.backbones.config import Config, DropRate, Whole, Widths
from jtl.backbones.family import Family, by_preset, picture
from jtl.backbones.vgg.names import torchvision_alexnet
from jtl.preprocess.image import IMAGENET, Preprocessing


class AlexNetConfig(Config, model_type="alexnet"):
    """The config of an AlexNet, with jtl's own entry names."""

    num_channels: Whole = 3
    hidden_sizes: Widths = (64, 192, 384, 256, 256)
    intermediate_size: Whole = 4096
    dropout: DropRate = 0.5


FAMILIES = (
    Family(
        config=AlexNetConfig,
        names="alexnet",
        named=by_preset("alexnet", {"alexnet": {}}, {"in_chans": "num_channels"}),
        backbone=lambda config: alexnet(
            widths=config.hidden_sizes, hidden=config.intermediate_size, dropout=config.dropout
        ),
        example=lambda config: picture(64, config.num_channels),
        tables=lambda config: {"torchvision": torchvision_alexnet(config.hidden_sizes[-1])},
        usual=lambda name, config: Preprocessing(256, 224, "bilinear", *IMAGENET),
    ),
)
