"""Several processes that train one model: each holds some samples of every batch, and sums make one step of them.

Only gradients of what trains cross between processes, once per step, in one piece; the frozen encoder is never sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as distributed
from torch import Tensor, nn

from samunet.errors import ConfigError, SamunetError

LOST = ("closed by peer", "Connection reset", "NCCL", "Broken pipe")  # in what torch says when another process is gone
LONGEST_WAIT = timedelta(hours=12)  # for a process that predicts whole cases or saves while others wait


@dataclass(frozen=True, kw_only=True)
class Processes:
    """This process's place among those of a training; one process alone is the usual case."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process logs and saves."""
        return self.rank == 0

    def items(self, batch_size: int) -> range:
        """Return which samples of a batch are this process's; raises ConfigError where there are fewer samples than
        processes.
        """
        if batch_size < self.count:
            raise ConfigError(
                f"A batch of {batch_size} cannot be shared by {self.count} processes; raise --batch_size, or use fewer."
            )
        return range(batch_size)[self.rank :: self.count]

    def sum(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return named tensors summed over the processes, without gradient."""
        if self.count == 1:
            return values
        flat = torch.cat([value.detach().reshape(-1) for value in values.values()])
        distributed.all_reduce(flat)
        parts = flat.split([value.numel() for value in values.values()])
        return {name: part.view_as(value) for (name, value), part in zip(values.items(), parts, strict=True)}

    def sum_gradients(self, parameters: Sequence[nn.Parameter], numbers: Sequence[float]) -> list[float]:
        """Sum gradients in place, and with them some numbers, which are returned; a parameter without gradient counts
        as zero.
        """
        if self.count == 1:
            return list(numbers)
        held = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            held.append(parameter.grad)
        device = parameters[0].device
        flat = torch.cat([gradient.reshape(-1).float() for gradient in held] + [torch.tensor(numbers, device=device)])
        distributed.all_reduce(flat)
        *gradients, rest = flat.split([*(parameter.numel() for parameter in parameters), len(numbers)])
        for gradient, total in zip(held, gradients, strict=True):
            gradient.copy_(total.view_as(gradient))
        return [float(number) for number in rest.tolist()]

    def of_first(self, number: float, device: torch.device) -> float:
        """Return the first process's number to all of them."""
        if self.count == 1:
            return number
        shared = torch.tensor([number], device=device)
        distributed.broadcast(shared, 0)
        return float(shared)

    def gather(self, state: Tensor, device: torch.device) -> list[Tensor]:
        """Return every process's tensor, all of one shape, on the CPU.

        Args:
            device: on which processes meet.
        """
        if self.count == 1:
            return [state]
        everyone = [torch.empty_like(state, device=device) for _ in range(self.count)]
        distributed.all_gather(everyone, state.to(device))
        return [tensor.cpu() for tensor in everyone]

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            distributed.barrier()


@contextmanager
def joined(rank: int, count: int, device: torch.device) -> Iterator[Processes]:
    """Join the processes that torchrun started (it tells their addresses in the environment), and leave them again;
    raises SamunetError where another process has ended.
    """
    if count == 1:
        yield Processes()
        return
    options = {"backend": "nccl", "device_id": device} if device.type == "cuda" else {"backend": "gloo"}
    distributed.init_process_group(**options, rank=rank, world_size=count, timeout=LONGEST_WAIT)
    try:
        yield Processes(rank=rank, count=count)
    except RuntimeError as error:
        if not any(sign in str(error) for sign in LOST):
            raise
        raise SamunetError(f"Process {rank} ends because another has ended; its message says why.") from None
    # not after an error: others may still wait in a sum, and this would wait for them
    distributed.destroy_process_group()
