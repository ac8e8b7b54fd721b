"""Which stage holds which layers, and parameters: checked, so that none is lost or doubled."""

from collections.abc import Mapping, Sequence

from longpipe.errors import PlanError
from longpipe.model.config import DecoderConfig
from longpipe.model.linear import Build
from longpipe.model.stage import DecoderStage

Partition = Sequence[range]
"""The layers of each stage, in order."""

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


def check_partition(config: DecoderConfig, partition: Partition) -> None:
    """Raises PlanError unless every layer is on exactly one stage, in order.

    A stage may be without layers (the embedding or the head alone).
    """
    expected = 0
    for stage, layers in enumerate(partition):
        if layers.step != 1 or layers.start != expected or layers.stop < layers.start:
            raise PlanError(
                f"partition: stage {stage} holds layers {layers.start} to {layers.stop}, expected "
                f"them to begin at {expected}; stages must hold all layers in order, each once"
            )
        expected = layers.stop
    if not partition or expected != config.layers:
        raise PlanError(
            f"partition: the stages end at layer {expected} of {config.layers}; "
            f"every layer must be on a stage"
        )


def parameter_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter of the model, in the order of the data flow.

    A tied head has no entry of its own.
    """
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab, config.hidden)}
    for layer in range(config.layers):
        layer_shapes = _layer_shapes(config)
        shapes.update({f"model.layers.{layer}.{name}": s for name, s in layer_shapes.items()})
    shapes["model.norm.weight"] = (config.hidden,)
    if not config.tied:
        shapes[HEAD] = (config.vocab, config.hidden)
    return shapes


def _layer_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    hidden, wide = config.hidden, config.intermediate
    inner, kv_inner = config.heads * config.head_dim, config.kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    linears = (
        ("self_attn.q_proj", inner, hidden, config.qkv_bias),
        ("self_attn.k_proj", kv_inner, hidden, config.qkv_bias),
        ("self_attn.v_proj", kv_inner, hidden, config.qkv_bias),
        ("self_attn.o_proj", hidden, inner, config.o_bias),
        ("mlp.gate_proj", wide, hidden, config.mlp_bias),
        ("mlp.up_proj", wide, hidden, config.mlp_bias),
        ("mlp.down_proj", hidden, wide, config.mlp_bias),
    )
    for name, outputs, inputs, bias in linears:
        shapes[f"{name}.weight"] = (outputs, inputs)
        if bias:
            shapes[f"{name}.bias"] = (outputs,)
    if config.qk_norm:
        shapes["self_attn.q_norm.weight"] = (config.head_dim,)
        shapes["self_attn.k_norm.weight"] = (config.head_dim,)
    return shapes


def holders(config: DecoderConfig, partition: Partition) -> dict[str, tuple[int, ...]]:
    """The stages that hold each parameter: one, or for a tied embedding the first and the last."""
    check_partition(config, partition)
    last = len(partition) - 1
    stage_of = {str(layer): stage for stage, layers in enumerate(partition) for layer in layers}
    held: dict[str, tuple[int, ...]] = {}
    for name in parameter_shapes(config):
        if name == EMBEDDING:
            held[name] = (0, last) if config.tied and last > 0 else (0,)
        elif name.startswith("model.layers."):
            held[name] = (stage_of[name.split(".")[2]],)
        else:
            held[name] = (last,)
    return held


def ties(config: DecoderConfig, partition: Partition) -> dict[str, tuple[int, ...]]:
    """Parameters that more than one stage holds, and these stages; their gradients must be summed.

    Either by `share_ties`, if the stages live in one process, or by adding up `grad` over the
    processes that hold them.
    """
    return {name: s for name, s in holders(config, partition).items() if len(s) > 1}


def make_stage(
    config: DecoderConfig, partition: Partition, stage: int, build: Build | None = None
) -> DecoderStage:
    """Stage number `stage` of the partition; raises PlanError for a partition that is not total."""
    expected = {name for name, s in holders(config, partition).items() if stage in s}
    last = stage == len(partition) - 1
    made = DecoderStage(config, partition[stage], first=stage == 0, last=last, build=build)
    found = {name for name, _ in made.named_parameters()}
    assert found == expected, f"stage {stage}: wrong parameters {sorted(found ^ expected)}"
    return made


def share_ties(stages: Mapping[int, DecoderStage]) -> None:
    """Makes the stages of one process that hold tied embeddings hold the same Parameter.

    `stages` maps stage numbers to those in this process; does nothing where the first and the
    last stage are not both among them. Gradients then add up by themselves.
    """
    first = next((s for s in stages.values() if s.first), None)
    last = next((s for s in stages.values() if s.last), None)
    if first is None or last is None or first is last or not first.config.tied:
        return
    last.model.embed_tokens = first.model.embed_tokens
