r"""Names of a torch module made of an embedding, an LSTM or GRU, and a linear layer.

No library says what those three are called: the usual attributes are read, and the first of each is written.
"""

from jtl.weights.mapping import transforms
from jtl.weights.mapping.layers import dense
from jtl.weights.mapping.rules import Rule


def torch(depth: int, bidirectional: bool) -> list[Rule]:
    """Of `nn.Embedding`, `nn.LSTM` or `nn.GRU`, and `nn.Linear`.

    Args:
      depth: number of layers.
      bidirectional: whether there are weights of the backward direction.
    """
    rules = [
        Rule(r"(?:embedding|embeddings|embed|emb|word_embeddings)\.weight", "backbone/words/embedding"),
        *dense(r"(?:fc|classifier|linear|head|out|decoder)", "head/out"),
    ]
    for i in range(depth):
        for direction, end in (("forward", ""), ("backward", "_reverse"))[: 1 + bidirectional]:
            for ours, theirs in (("input", "ih"), ("state", "hh")):
                path = f"backbone/layer{i + 1}/{direction}/{ours}"
                name = rf"(?:rnn|lstm|gru|encoder)\.{{}}_{theirs}_l{i}{end}"
                rules += [
                    Rule(name.format("weight"), f"{path}/kernel", transforms.dense),
                    Rule(name.format("bias"), f"{path}/bias"),
                ]
    return rules
