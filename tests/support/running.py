"""A loaded network's features and logits, as tests of its numbers compare them."""

from jtl.model import Model


def forward(net: Model, *, train: bool):
    """`run(variables, x, key) -> (features, output, stats)`."""

    def run(variables, x, key):
        out, stats = net.apply(variables, x, train=train, key=key)
        return out.features, out.output, stats

    return run
