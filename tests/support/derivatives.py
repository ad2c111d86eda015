"""Two functions are one, as far as their derivatives tell."""

import jax
import jax.numpy as jnp
import numpy as np


def same_to_second_order(ours, theirs, *arguments):
    """Values, gradients, directional derivatives and gradients of gradients of two functions of arrays.

    In float64, so that 1e-10 leaves nothing but the order of the sums.
    """
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        given = [jnp.asarray(a, jnp.float64) for a in arguments]
        direction = [jnp.asarray(rng.normal(size=a.shape)) for a in given]

        def derivatives(f):
            def loss(*a):
                return jnp.tanh(f(*a)).sum()

            every = tuple(range(len(given)))
            gradient = jax.grad(loss, every)

            def along(*a):
                return sum(jnp.vdot(g, d) for g, d in zip(gradient(*a), direction, strict=True))

            # Reverse over reverse, as in second-order MAML: the gradient of <gradient, direction>.
            forward = jax.jvp(f, given, direction)
            return forward, gradient(*given), jax.grad(along, every)(*given)

        found, wanted = (jax.jit(lambda f=f: derivatives(f))() for f in (ours, theirs))
    assert found[0][0].shape == wanted[0][0].shape
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), found, wanted)
