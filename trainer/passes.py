"""The forward and backward passes of an optimizer step, as a plan has them run."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

from trainer import attention, layers, model as models
from trainer.loss import supervised_loss_sum, to_device, views
from trainer.packing import Packing, lay_out, supervised_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.capture import Captured
    from trainer.packing import Shape
    from trainer.plan import Plan
    from trainer.template import Encoded


class Passes:
    """One model on one device. `arrange` first; `random`: whether it draws (dropout)."""

    def __init__(self, model: Any, device: Any, *, random: bool) -> None:
        self.model = model
        self.device = device
        self.random = random
        self.plan: Plan
        self.packing: Packing
        self._captured: Captured | None = None
        self._ready: tuple[Sequence[Encoded], list[tuple[Any, Shape]]] | None = None

    def arrange(self, plan: Plan, packing: Packing, *, states: int = 0) -> None:
        """Run as `plan` says from now on. Meets every shape once if it compiles or captures.

        Gradients are zero or gone afterwards; weights and random numbers are as before. Captured
        programs keep what their passes need: they leave the card room for `states` more numbers
        for each weight that is trained.
        """
        self.forget()
        self.plan, self.packing = plan, packing
        if plan.checkpointing == "selective":
            layers.require_kept_operator(self.model)
        attention.use(self.model.get_base_model(), plan.attention)
        layers.arrange(self.model, plan.checkpointing, compiled=plan.compiled, random=self.random)
        examples = [
            (shape, self._to_device(lay_out([], [shape], packing.pad_id, longest=packing.longest)))
            for shape in packing.shapes
        ]
        if plan.captured:
            from trainer.capture import Captured

            captured = Captured(models.trainable(self.model), self._loss_sum, self.device)
            captured.capture(examples, states)
            self._captured = captured
        elif plan.compiled:
            for shape, flat in reversed(examples):
                (self._loss_sum(flat, shape) * 0.0).backward()
            self.zero_gradients()

    def forget(self) -> None:
        """Let go of captured programs, gradients and the memory that the card keeps for them."""
        self._captured = self._ready = None
        for parameter in models.trainable(self.model):
            parameter.grad = None
        if self.device.type == "cuda":
            import torch

            gc.collect()  # what ran out of memory may hang in a ring of its error's frames
            torch.cuda.empty_cache()

    def zero_gradients(self) -> None:
        """As before the step: captured programs add to gradients where they stand."""
        parameters = models.trainable(self.model)
        if self._captured is None:
            for parameter in parameters:
                parameter.grad = None
        else:
            import torch

            torch._foreach_zero_([parameter.grad for parameter in parameters])

    def gradients(self, samples: Sequence[Encoded]) -> Any:
        """The mean loss over the samples' supervised tokens, a tensor; its gradients are added up.

        loss = sum over the supervised tokens of the whole step / their number, so it does not
        depend on how the samples are packed. The card may still be at work on return.
        """
        import torch

        share = 1.0 / supervised_in(samples)
        packs = self._on_device(samples)
        if self._captured:
            self._captured.loss.zero_()
            for flat, shape in packs:
                self._captured.run(flat, shape, share)
            return self._captured.loss
        loss = torch.zeros((), dtype=torch.float64 if self.device.type == "cpu" else None)
        loss = loss.to(self.device)
        for flat, shape in packs:
            part = self._loss_sum(flat, shape) * share
            part.backward()
            loss += part.detach()
        return loss

    def prefetch(self, samples: Sequence[Encoded]) -> None:
        """Get the packs of the next step ready while the card is at work on this one."""
        self._ready = (samples, self._on_device(samples))

    def loss_sum(self, samples: Sequence[Encoded]) -> float:
        """The loss summed over the samples' supervised tokens; no gradients, nothing changed."""
        import torch

        if self.device.type == "cpu":
            models.assert_no_repacking(self.model)
        self.model.eval()
        try:
            with torch.no_grad(), torch.compiler.set_stance("force_eager"):
                return sum(
                    float(self._loss_sum(flat, shape).item())
                    for flat, shape in self._on_device(samples)
                )
        finally:
            self.model.train()

    def _on_device(self, samples: Sequence[Encoded]) -> list[tuple[Any, Shape]]:
        ready, self._ready = self._ready, None
        if ready and ready[0] == samples:
            return ready[1]
        return [(self._to_device(pack), pack.shape) for pack in self.packing.packs(samples)]

    def _to_device(self, pack: Any) -> Any:
        return to_device(pack, self.packing.segments, self.device)

    def _loss_sum(self, flat: Any, shape: Shape) -> Any:
        batch = views(flat, shape)
        kind = self.plan.attention
        batch["attention"] = attention.arguments(kind, batch, self.packing.longest)
        with models.autocast(self.device):
            return supervised_loss_sum(self.model, batch)
