"""FourierFT: updates of dense layers with few learned frequencies."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from jtl.checked import positive, whole
from jtl.peft.attach import Adapter, patterns
from jtl.peft.lora import first_match
from jtl.transform.intercept import Call
from jtl.typing import Key, Params


def fourierft(
    frequencies: int,
    where: Sequence[str],
    *,
    scale: float = 150.0,
    seed: int = 777,
    start: Literal["zero", "normal"] = "zero",
    counts: Mapping[str, int] | None = None,
) -> Adapter:
    """FourierFT of dense layers: `y = x (W + α Re F⁻¹(C)) + b`, with F⁻¹ the inverse discrete Fourier transform.

    C is [in, out] and 0 but for `frequencies` of its numbers, which are real and learned. Their places are random and
    constant; they depend on the seed and the shape alone, so modules of one shape share them. They are PEFT's.

    Args:
      frequencies: number of learned numbers of a module; the paper takes 1000, and 3000 for images.
      where: regexes over module paths, such as `.*/attention/(query|value)`.
      scale: α. The transform divides by the size of the kernel, so α is large; the paper takes about 100 to 300.
      seed: seed of the places.
      start: "zero", with which the network starts unchanged, or "normal", the paper's and PEFT's.
      counts: other numbers of frequencies, by regex over whole module paths, of which the first match counts.

    Returns:
      An adapter with the parameter `c`, [frequencies].

    Raises:
      ValueError: for a number of frequencies that is no integer of at least 1, a scale that is not positive and finite,
        a seed that is no integer of 32 bits, or an unknown start; at `attach`, for a pattern of `counts` that matches
        no adapted module, for a kernel that is not [in, out], and for more frequencies than the kernel has numbers.

    Gao et al., Parameter-Efficient Fine-Tuning with Discrete Fourier Transform, 2024, arXiv 2405.03003.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net, adapter = jtl.backbones.mlp((8, 4)), jtl.peft.fourierft(10, (".*",))
      >>> net, variables = jtl.peft.attach(net, net.init(jax.random.key(0), jnp.ones((2, 5))), adapter,
      ...     jax.random.key(1))
      >>> print(jtl.peft.summary(variables))
      2 adapted modules, 20 adapter parameters, 0.192 of all 104
    """
    where, counts = patterns(where), dict(counts or {})
    whole(1, frequencies=frequencies, **{f"counts[{pattern!r}]": value for pattern, value in counts.items()})
    positive(scale=scale)
    whole(0, seed=seed)
    if seed >= 2**32:
        raise ValueError(f"seed={seed}: give an integer of 32 bits")
    if start not in ("zero", "normal"):
        raise ValueError(f"start={start!r}: give 'zero' or 'normal'")

    def init(key: Key, path: str, own: Params) -> Params:
        kernel, count = own["kernel"], first_match(counts, path, frequencies)
        if kernel.ndim != 2 or count > kernel.size:
            raise ValueError(
                f"the kernel of {path!r} is {kernel.shape}; FourierFT takes [in, out] of at least {count} numbers, as"
                " many as there are frequencies"
            )
        if start == "zero":
            return {"c": jnp.zeros(count, kernel.dtype)}
        return {"c": jax.random.normal(key, (count,), kernel.dtype)}

    def update(c: Any, shape: tuple[int, ...]) -> Array:
        wide = jnp.promote_types(c.dtype, jnp.float32)  # there is no transform in 16 bits
        rows, columns = _places(shape[0], shape[1], c.shape[0], seed)
        spectrum = jnp.zeros(shape, wide).at[rows, columns].set(jnp.asarray(c, wide), unique_indices=True)
        return scale * jnp.fft.ifft2(spectrum).real

    def apply(params: Params, run: Callable, x: Any, own: Params, call: Call) -> Any:
        del own, call
        y = run(x)
        return y + x @ update(params["c"], (x.shape[-1], y.shape[-1])).astype(y.dtype)

    def changed(params: Params, path: str, own: Params, sign: int = 1) -> Params:
        del path
        kernel = own["kernel"]
        return {**own, "kernel": (kernel + sign * update(params["c"], kernel.shape)).astype(kernel.dtype)}

    config = {
        "peft_type": "FOURIERFT",
        "n_frequency": frequencies,
        "scaling": scale,
        "random_loc_seed": seed,
        "init_weights": start == "zero",
        "bias": "none",
        "counts": counts,
    }
    return Adapter(
        where,
        init,
        apply,
        changed,
        config,
        within=tuple(counts),
        unmerge=lambda params, path, own: changed(params, path, own, -1),
    )


@lru_cache(maxsize=256)
def _places(inputs: int, outputs: int, count: int, seed: int) -> tuple[Int[np.ndarray, "c"], Int[np.ndarray, "c"]]:
    """The rows and columns of the frequencies: the first of a random permutation of a torch kernel, [out, in].

    It is `torch.randperm` after `manual_seed(seed)`: torch swaps the i-th number with one of the later ones that an
    MT19937 chooses, so the first `count` numbers need as many draws. NumPy has the same generator.
    """
    size = inputs * outputs
    draws = np.random.RandomState(seed).randint(0, 2**32, count, dtype=np.uint32)
    moved: dict[int, int] = {}
    found = np.empty(count, np.int64)
    for i, draw in enumerate(draws.tolist()):
        other = i + int(draw) % (size - i)
        found[i] = moved.get(other, other)
        moved[other] = moved.get(i, i)
    return found % inputs, found // inputs
