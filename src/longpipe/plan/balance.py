"""Layers and cuts of a decoder, balanced by the FLOPs of a training step."""

from dataclasses import dataclass
from typing import Literal

from longpipe.cost import DecoderShape, StageShape, causal_pairs, coefficients, stage_shapes
from longpipe.ir import Kind, Placement
from longpipe.plan.partition import balanced_layers
from longpipe.plan.segments import equal_cost_cuts

Recompute = Literal["full", "selective"]


@dataclass(frozen=True, slots=True)
class StepFlops:
    """FLOPs of forward and backward on a decoder's stages, and of R where all stages `recompute`.

    "selective" makes all again but attention's outputs.

    >>> from longpipe.ir import v
    >>> step = StepFlops(DecoderShape(64, 16, 4, 4, 16, 256, 8192))
    >>> step.layers(v(4), tokens=4096)
    (2, 2, 2, 2, 3, 2, 2, 1)
    >>> step.cuts((2, 2), tokens=8192, segments=4, multiple=128)
    (3200, 2048, 1536, 1408)
    """

    shape: DecoderShape
    recompute: Recompute | None = None

    def coefficients(self, stage: StageShape) -> tuple[int, int]:
        """FLOPs per token and per query-key pair on one stage."""
        kinds = (Kind.F, Kind.B, Kind.R) if self.recompute else (Kind.F, Kind.B)
        keeps = self.recompute == "selective"
        return coefficients(self.shape, stage, kinds, keeps_attention=keeps)

    def of(self, stage: StageShape, tokens: int) -> int:
        """FLOPs of one sequence of `tokens` on one stage."""
        linear, pair = self.coefficients(stage)
        return linear * tokens + pair * causal_pairs(0, tokens)

    def layers(self, placement: Placement, tokens: int) -> tuple[int, ...]:
        """Layers of each stage, the busiest rank doing as little as can be; the head counts.

        Raises PlanError with fewer layers than stages.
        """
        layer = self.of(StageShape(1), tokens)
        head = self.of(StageShape(0, last=True), tokens)
        return balanced_layers(self.shape.layers, placement, layer=layer, last=head)

    def cuts(
        self, layers: tuple[int, ...], tokens: int, segments: int, multiple: int = 1
    ) -> tuple[int, ...]:
        """Lengths of segments of equal FLOPs on the stage that has the most.

        Raises PlanError as `equal_cost_cuts` does.
        """
        slowest = max(stage_shapes(layers), key=lambda stage: self.of(stage, tokens))
        linear, pair = self.coefficients(slowest)
        return equal_cost_cuts(tokens, segments, linear=linear, pair=pair, multiple=multiple)
