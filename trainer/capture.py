"""A pack's forward and backward pass as one captured program (a CUDA graph) for each shape.

With short samples a step is bound by the launching of some ten thousand kernels, not by what they
compute; replaying a captured program launches them all at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trainer.packing import Shape

WARM_UPS = 2
"""Before the capture: the first compiles and fills libraries' caches, which a capture forbids."""


class Captured:
    """The captured programs of one run. `loss_of(flat, shape)` is the loss sum of a pack."""

    def __init__(
        self, parameters: list[Any], loss_of: Callable[[Any, Shape], Any], device: Any
    ) -> None:
        import torch

        self._parameters = parameters
        self._loss_of = loss_of
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._programs: dict[Shape, tuple[Any, Any]] = {}
        self._share = torch.zeros((), device=device)
        self.loss = torch.zeros((), device=device)
        """The mean loss of the packs run since it was last set to 0."""

    def capture(self, examples: Iterable[tuple[Shape, Any]], states: int = 0) -> None:
        """Make a program for the shape of each (shape, pack's numbers on the device).

        Raises torch's OutOfMemoryError where that leaves no memory for `states` more numbers for
        each parameter, as the optimizer will ask for them.

        All are warmed up before the first is captured: a program keeps what its pass needed, and
        a warm-up beside one would need as much again. The largest first, so that the others fit
        into its memory. Gradients are zero afterwards and stay where they are: the programs write
        there.
        """
        import torch

        for parameter in self._parameters:
            parameter.grad = torch.zeros_like(parameter)
        ordered = sorted(examples, key=lambda e: (-e[0].tokens, -e[0].rows))
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for shape, flat in ordered:
                for _ in range(WARM_UPS):
                    self._pass(flat, shape)
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        for shape, flat in ordered:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                self._pass(flat, shape)
            self._programs[shape] = (graph, flat)
        room = [torch.empty_like(p) for p in self._parameters for _ in range(states)]
        del room
        for parameter in self._parameters:
            parameter.grad.zero_()
        self.loss.zero_()

    def run(self, flat: Any, shape: Shape, share: float) -> None:
        """Add the pack's gradients to the parameters', and its loss sum times `share` to `loss`."""
        graph, place = self._programs[shape]
        place.copy_(flat, non_blocking=True)
        self._share.fill_(share)
        graph.replay()

    def _pass(self, flat: Any, shape: Shape) -> None:
        part = self._loss_of(flat, shape) * self._share
        part.backward()
        self.loss.add_(part.detach())
