"""The four-block convolutional network of the few-shot literature."""

from typing import Literal

import flax.linen as nn
import jax

from jtl.checked import whole
from jtl.model import Model, from_linen
from jtl.nn.batch_norm import BatchNorm
from jtl.nn.layers import Conv, check_images, fan_out_normal
from jtl.nn.pooling import max_pool


def conv4(
    filters: int = 64,
    *,
    downsample: Literal["stride", "pool"] = "stride",
    flatten: bool = False,
    momentum: float = 0.1,
    conv: Literal["auto", "patches", "lax"] = "auto",
    kernel_init: nn.initializers.Initializer = fan_out_normal,
) -> Model:
    """Four blocks of 3x3 convolution, batch normalisation and ReLU, each halving the resolution.

    Features: `stage1` ... `stage4` [batch, h, w, filters]; `last` is `stage4`; `pooled`, its mean over pixels.
    Parameters: `stage1/conv/kernel`, `stage1/norm/scale`, `stage1/norm/bias`, ...

    Args:
      filters: channels of every block.
      downsample: how each block halves the map: "stride", a stride of 2 (MAML on Omniglot), or "pool", 2x2 max-pooling
        (prototypical networks).
      flatten: make `pooled` the flattened last map instead, as is usual on miniImageNet.
      momentum: weight of the new batch in the running statistics. 1 keeps those of the last batch, so that queries are
        evaluated with the statistics of their support set.
      conv: "patches" computes patches @ weights, "lax" is `lax`'s convolution. "auto" uses patches on a CPU, where they
        make second derivatives and weights that differ per task much faster, and `lax` elsewhere. The weights are the
        same.
      kernel_init: initialiser of the kernels. In MAML their scale sets that of the first inner steps, because the
        gradient of a kernel before a normalisation is inversely proportional to the kernel's scale. For images of one
        channel use `jax.nn.initializers.lecun_normal()`; the default, which scales by outputs, makes the first kernel
        of 32 filters a quarter as large.

    Raises:
      ValueError: for an unknown choice, or at init for images too small to be halved four times.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net, x = jtl.backbones.conv4(8), jnp.zeros((2, 32, 32, 3))
      >>> out = jax.eval_shape(lambda: net.apply(net.init(jax.random.key(0), x), x, train=False)[0])
      >>> out["last"].shape, out["pooled"].shape
      ((2, 2, 2, 8), (2, 8))

    Vinyals et al., Matching Networks, 2016, arXiv 1606.04080; Finn et al., MAML, 2017, arXiv 1703.03400.
    """
    whole(1, filters=filters)
    if downsample not in ("stride", "pool"):
        raise ValueError(f"downsample={downsample!r}: give 'stride' or 'pool'")
    if conv not in ("auto", "patches", "lax"):
        raise ValueError(f"conv={conv!r}: give 'auto', 'patches' or 'lax'")
    return from_linen(_Conv4(filters, downsample == "pool", flatten, momentum, conv, kernel_init))


class _Block(nn.Module):
    filters: int
    pool: bool
    momentum: float
    patches: bool
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x, train: bool):
        stride = 1 if self.pool else 2
        x = Conv(self.filters, 3, stride, patches=self.patches, kernel_init=self.kernel_init, name="conv")(x)
        x = nn.relu(BatchNorm(self.momentum, name="norm")(x, train))
        return max_pool(x) if self.pool else x


class _Conv4(nn.Module):
    filters: int
    pool: bool
    flatten: bool
    momentum: float
    conv: str
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x, train: bool):
        x = check_images(x, 16 if self.pool else 1)
        # Asked while tracing, not at import: after importing jtl one may still choose a platform.
        patches = self.conv == "patches" or (self.conv == "auto" and jax.default_backend() == "cpu")
        features = {}
        for i in range(1, 5):
            block = _Block(self.filters, self.pool, self.momentum, patches, self.kernel_init, name=f"stage{i}")
            x = features[f"stage{i}"] = block(x, train)
        pooled = x.reshape(x.shape[0], -1) if self.flatten else x.mean((1, 2))
        return features | {"last": x, "pooled": pooled}
