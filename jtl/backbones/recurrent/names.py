r"""Names of a torch module made of an embedding, an LSTM or GRU, and a linear layer.

No library fixes the names of those three: the usual attribute names are read, and the first of each is written.
"""

from jtl.weights.mapping import transforms
from jtl.weights.mapping.layers import dense
from jtl.weights.mapping.rules import Rule


def torch() -> list[Rule]:
    """Rules for `nn.Embedding`, `nn.LSTM` or `nn.GRU`, and `nn.Linear`."""
    rules = [
        Rule(r"(?:embedding|embeddings|embed|emb|word_embeddings)\.weight", "backbone/words/embedding"),
        *dense(r"(?:fc|classifier|linear|head|out|decoder)", "head/out"),
    ]
    for direction, end in (("forward", ""), ("backward", "_reverse")):
        for ours, theirs in (("input", "ih"), ("state", "hh")):
            path, top = f"backbone/layer{{1+1}}/{direction}/{ours}", r"(?:rnn|lstm|gru|encoder)"
            rules += [
                Rule(rf"{top}\.weight_{theirs}_l(\d+){end}", f"{path}/kernel", transforms.dense),
                Rule(rf"{top}\.bias_{theirs}_l(\d+){end}", f"{path}/bias"),
            ]
    return rules
