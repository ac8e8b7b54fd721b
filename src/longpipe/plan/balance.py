"""Layers and cuts of a decoder, balanced by the FLOPs of a training step."""

from longpipe.cost import DecoderShape, StageShape, coefficients, op_flops, stage_shapes
from longpipe.ir import Kind, Placement, Segment
from longpipe.plan.partition import balanced_layers
from longpipe.plan.segments import equal_cost_cuts

_STEP = (Kind.F, Kind.B)


def step_flops(shape: DecoderShape, stage: StageShape, tokens: int) -> int:
    """FLOPs of forward and backward of one sequence on one stage."""
    whole = Segment(0, 0, tokens)
    return sum(op_flops(kind, shape, stage, whole) for kind in _STEP)


def layers_by_flops(shape: DecoderShape, placement: Placement, tokens: int) -> tuple[int, ...]:
    """Layers of each stage, so that the busiest rank does as little as can be; the head counts.

    Raises PlanError with fewer layers than stages.
    """
    layer = step_flops(shape, StageShape(1), tokens)
    head = step_flops(shape, StageShape(0, last=True), tokens)
    return balanced_layers(shape.layers, placement, layer=layer, last=head)


def cuts_by_flops(
    shape: DecoderShape, layers: tuple[int, ...], tokens: int, segments: int, multiple: int = 1
) -> tuple[int, ...]:
    """Lengths of segments of equal FLOPs on the stage that has the most; see `equal_cost_cuts`.

    >>> shape = DecoderShape(64, 4, 4, 4, 16, 256, 1000)
    >>> cuts_by_flops(shape, (2, 2), 8192, segments=4, multiple=128)
    (3840, 1792, 1408, 1152)
    """
    slowest = max(stage_shapes(layers), key=lambda stage: step_flops(shape, stage, tokens))
    linear, pair = coefficients(shape, slowest, _STEP)
    return equal_cost_cuts(tokens, segments, linear=linear, pair=pair, multiple=multiple)
