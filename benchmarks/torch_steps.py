"""The training steps in plain torch, each as fast as torch allows: fused AdamW, no host sync in a step."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.setups import CLOSE, CRITIC, INNER_LR, RUN, Setup
from benchmarks.torch_nets import Net, Norm, carry, images, network


class Twin:
    """The torch side of a setup: the same weights, the same batch.

    Args:
      setup: jtl's setup.
      device: "cpu" or "cuda".
      channels_last: the memory layout of images and convolutions.
      fuse: whether to compile the network with `torch.compile` (not for maml, because it does not differentiate twice).
    """

    def __init__(self, setup: Setup, device: str, *, channels_last: bool, fuse: bool = False):
        cell = setup.cell
        critic = CRITIC if cell.family in ("dann", "cdan") else None
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.cell, self.device, self.taken = cell, device, 0
        self.net = network(
            cell.backbone, cell.size, cell.classes, critic, outer=cell.family == "cdan", twice=cell.family == "mcd"
        )
        carry(setup.variables.params, setup.variables.stats, self.net)
        self.net = self.net.to(device).train().to(memory_format=layout)  # pyright: ignore[reportCallIssue]
        self.batch = images(setup.batch, device, layout)
        norms = [p for m in self.net.modules() if isinstance(m, Norm) for p in m.parameters(recurse=False)]
        if cell.family == "tent":
            self.net.requires_grad_(False)
            for p in norms:
                p.requires_grad_(True)
        own = self.net.backbone if cell.family == "mcd" else self.net
        self.tx = self._optimizer(norms if cell.family == "tent" else own.parameters())
        if self.net.second is not None:
            self.heads_tx = self._optimizer([*self.net.head.parameters(), *self.net.second.parameters()])
        self.run: Any = torch.compile(self.net.backbone) if fuse and cell.family != "maml" else self.net.backbone
        if cell.family in ("maml", "tent"):
            for module in self.net.modules():
                if isinstance(module, Norm):
                    module.follows = False

    def step(self) -> Tensor:
        """Takes one training step; returns the loss before it."""
        if self.cell.family == "mcd":
            return self._mcd()
        self.tx.zero_grad(set_to_none=True)
        loss = self._maml() if self.cell.family == "maml" else self.gradient()
        self.tx.step()
        self.taken += 1
        return loss

    def forward(self) -> Tensor:
        """Computes the loss alone, keeping what a backward pass needs."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.cell.dtype == "bfloat16"):
            return FORWARD[self.cell.family](self)[0]

    def gradient(self) -> Tensor:
        """Computes the loss and every gradient."""
        loss = self.forward()
        loss.backward()
        return loss.detach()

    def repeat(self, what: Callable[[], Tensor]) -> Callable[[int], float]:
        """Returns `steps(n)`, which calls `what` n times and waits."""

        def steps(n: int) -> float:
            loss = torch.zeros(())
            for _ in range(n):
                if what is not self.step:
                    self.tx.zero_grad(set_to_none=True)
                loss = what()
            return float(loss.detach())

        return steps

    def _finetune(self) -> tuple[Tensor, Tensor]:
        logits, y = self.net.head(self.run(self.batch["x"])), self.batch["y"]
        return F.cross_entropy(logits.float(), y), _accuracy(logits, y)

    def _dann(self) -> tuple[Tensor, Tensor]:
        y, n = self.batch["source"]["y"], len(self.batch["source"]["y"])
        x = torch.cat([self.batch["source"]["x"], self.batch["target"]["x"]])
        found = self.run(x)
        # CDAN's critic reads the classes too; plain DANN needs them only for the source.
        every = self.net.head(found if self.cell.family == "cdan" else found[:n])
        logits = every[:n]
        weight = 2 / (1 + 2.718281828459045 ** (-10 * min(self.taken / RUN, 1.0))) - 1
        assert self.net.critic is not None
        read: Any = _Reverse.apply(found, weight)
        if self.cell.family == "cdan":
            read = torch.bmm(read[:, :, None], every.detach().softmax(1)[:, None]).flatten(1)
        judged = self.net.critic(read)[:, 0].float()
        critic = 0.5 * F.softplus(-judged[:n]).mean() + 0.5 * F.softplus(judged[n:]).mean()
        return F.cross_entropy(logits.float(), y) + critic, _accuracy(logits, y)

    def _mmd(self) -> tuple[Tensor, Tensor]:
        y, n = self.batch["source"]["y"], len(self.batch["source"]["y"])
        f = self.run(torch.cat([self.batch["source"]["x"], self.batch["target"]["x"]])).float()
        logits = self.net.head(f[:n])
        squared = _squared(f)
        width = squared.detach().mean()
        k = torch.stack([torch.exp(-squared / (2 * alpha * width)) for alpha in (0.5, 1.0, 2.0)]).sum(0)
        value = k[:n, :n].mean() + k[n:, n:].mean() - 2 * k[:n, n:].mean()
        return F.cross_entropy(logits.float(), y) + value, _accuracy(logits, y)

    def _mcd(self) -> Tensor:
        """Step A trains everything, B the two heads, C the backbone, repeatedly; returns the sum of their last losses.

        As in tllib's example, each step passes both domains forward and all gradients back.
        """
        y, n = self.batch["source"]["y"], len(self.batch["source"]["y"])
        x, second = torch.cat([self.batch["source"]["x"], self.batch["target"]["x"]]), self.net.second
        assert second is not None

        def losses() -> tuple[Tensor, Tensor]:
            with torch.autocast(self.device, torch.bfloat16, enabled=self.cell.dtype == "bfloat16"):
                f = self.run(x)
                first, other = self.net.head(f).float(), second(f).float()
            apart = (first[n:].softmax(1) - other[n:].softmax(1)).abs().mean()
            return F.cross_entropy(first[:n], y) + F.cross_entropy(other[:n], y), apart

        def move(loss: Tensor, *by: torch.optim.Optimizer) -> Tensor:
            for tx in (self.tx, self.heads_tx):
                tx.zero_grad(set_to_none=True)
            loss.backward()
            for tx in by:
                tx.step()
            return loss.detach()

        total = move(losses()[0], self.tx, self.heads_tx)
        known, apart = losses()
        total = total + move(known - apart, self.heads_tx)
        last = torch.zeros((), device=self.device)
        for _ in range(CLOSE):
            last = move(losses()[1], self.tx)
        self.taken += 1
        return total + last

    def _optimizer(self, learns: Iterable[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            list(learns), lr=self.cell.lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, fused=True
        )

    def _tent(self) -> tuple[Tensor, Tensor]:
        logits = self.net.head(self.run(self.batch["x"])).float()
        return -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean(), _accuracy(logits, self.batch["y"])

    def _maml(self) -> Tensor:
        """A loop over tasks, gradients added up; `create_graph` keeps the second order."""
        params: dict[str, Tensor] = dict(self.net.named_parameters())
        support, query = self.batch["support"], self.batch["query"]
        total = torch.zeros((), device=self.device)
        for i in range(self.cell.batch):
            with torch.autocast(self.device, torch.bfloat16, enabled=self.cell.dtype == "bfloat16"):
                fast = params
                for _ in range(self.cell.inner_steps):
                    loss = _task_loss(self.net, fast, support["x"][i], support["y"][i])
                    grads = torch.autograd.grad(loss, list(fast.values()), create_graph=True)
                    fast = {name: p - INNER_LR * g for (name, p), g in zip(fast.items(), grads, strict=True)}
                loss = _task_loss(self.net, fast, query["x"][i], query["y"][i]) / self.cell.batch
            loss.backward()
            total += loss.detach()
        return total


FORWARD: dict[str, Callable[[Twin], tuple[Tensor, Tensor]]] = {
    "finetune": Twin._finetune,
    "dann": Twin._dann,
    "cdan": Twin._dann,
    "mmd": Twin._mmd,
    "tent": Twin._tent,
}


def _squared(f: Tensor) -> Tensor:
    """Squared distances of rows by one matrix product, after subtracting their mean."""
    f = f - f.detach().mean(0)
    lengths = f.square().sum(1)
    return (lengths[:, None] + lengths[None] - 2 * f @ f.T).clamp_min(0)


def _task_loss(net: Net, params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    logits = torch.func.functional_call(net, params, (x,))
    return F.cross_entropy(logits.float(), y)


def _accuracy(logits: Tensor, y: Tensor) -> Tensor:
    return (logits.detach().argmax(-1) == y).float().mean()


class _Reverse(torch.autograd.Function):
    """Gradient reversal."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return -ctx.weight * grads[0], None
