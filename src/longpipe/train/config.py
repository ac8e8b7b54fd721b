"""The config tree of a training run: every setting, its type, its default and what it means.

A config is a TOML file with one table per class below, or `Config(...)` in Python. `load_config`
reads files and command-line overrides; both end here, so one place says what is valid.
"""

import hashlib
import json
from typing import Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic import model_validator as validator

from longpipe.train.config_pipeline import PipelineConfig, TuneConfig, check_cuts
from longpipe.train.config_section import Section


class ModelConfig(Section):
    """[model]: a Hugging Face config, or the shape of a Llama decoder written out here."""

    hf_config: str = ""
    """Path of a Hugging Face `config.json`, or of a folder that holds one."""
    weights: str = ""
    """Folder of Hugging Face safetensors to start from; empty: start from random weights."""
    init_seed: int = 0
    """Seed of the random weights; the same weights for every pipeline layout."""
    hidden_size: PositiveInt | None = None
    """Width of the residual stream."""
    layers: PositiveInt | None = None
    """Decoder layers."""
    heads: PositiveInt | None = None
    """Query heads."""
    kv_heads: PositiveInt | None = None
    """Key and value heads (grouped-query attention); default: as many as `heads`."""
    head_dim: PositiveInt | None = None
    """Size of a head; default: hidden_size / heads."""
    intermediate_size: PositiveInt | None = None
    """Width of the MLP; default: 8/3 of hidden_size, rounded up to a multiple of 64."""
    vocab_size: PositiveInt | None = None
    """Rows of the embedding; default: the tokenizer's."""
    rope_theta: PositiveFloat = 10_000.0
    """Base of the rotary angles."""
    norm_eps: PositiveFloat = 1e-5
    """Added under the root in RMSNorm."""
    tie_embeddings: bool = False
    """Whether the output layer uses the embedding's weights."""
    qk_norm: bool = False
    """RMSNorm on queries and keys, as Qwen3 has it."""
    qkv_bias: bool = False
    """Biases on the query, key and value projections, as Qwen2 has them."""

    @validator(mode="after")
    def _one_shape(self) -> Self:
        written = [name for name in _SHAPE if name in self.model_fields_set]
        if self.hf_config and written:
            raise ValueError(
                f"hf_config already gives the shape: remove it, or remove {', '.join(written)}"
            )
        needed = [name for name in ("hidden_size", "layers", "heads") if not getattr(self, name)]
        if not self.hf_config and needed:
            raise ValueError(f"set hf_config, or set {', '.join(needed)} as well")
        if self.hidden_size and self.heads and not self.head_dim and self.hidden_size % self.heads:
            raise ValueError(
                f"hidden_size = {self.hidden_size} is not a multiple of heads = {self.heads}: "
                "change one of them, or set head_dim"
            )
        if self.heads and self.kv_heads and self.heads % self.kv_heads:
            raise ValueError(
                f"heads = {self.heads} is not a multiple of kv_heads = {self.kv_heads}"
            )
        return self


_SHAPE = tuple(
    name for name in ModelConfig.model_fields if name not in ("hf_config", "weights", "init_seed")
)


class DataConfig(Section):
    """[data]: where the tokens come from, and how they become sequences."""

    kind: Literal["text", "dataset", "tokens"] = "text"
    """Text files, folders written by `datasets.save_to_disk`, or token `.bin` files."""
    paths: tuple[str, ...] = Field(min_length=1)
    """Files or globs (`**` for all folders below), relative to the working directory."""
    separator: str = ""
    """Text between the documents of a text file; empty: a file is one document."""
    bad_text: Literal["stop", "replace"] = "stop"
    """At bytes that are not UTF-8: stop, or put a replacement character."""
    text_field: str = "text"
    """Column of a dataset that holds the text."""
    tokenizer: str = "bytes"
    """Path of a `tokenizer.json` or its folder, "bytes", or "train" for a BPE of the text."""
    eos_token: str = ""
    """Text of the end-of-document token of a tokenizer file; empty: found out; "none": without."""
    vocab_size: PositiveInt | None = None
    """Vocabulary to train with tokenizer "train"; vocabulary of bare token files."""
    token_dtype: Literal["uint16", "uint32"] | None = None
    """Set for token files without a `.json`: the type of their bare ids."""
    eos_id: NonNegativeInt | None = None
    """End-of-document id of token files without a `.json`; unset: one document per file."""
    sequence_length: PositiveInt = 4096
    """Tokens per sequence."""
    packing: Literal["documents", "stream"] = "documents"
    """Documents in one sequence do not see each other, or the text is one running stream."""
    seed: int = 0
    """Seed of the order of the sequences."""
    cache_dir: str = "longpipe-cache"
    """Folder for tokens and trained tokenizers, shared between runs."""

    @validator(mode="after")
    def _fields_of_kind(self) -> Self:
        if self.kind != "tokens" and self.tokenizer == "train" and self.vocab_size is None:
            raise ValueError('tokenizer = "train" needs vocab_size, such as 8192')
        if self.kind == "tokens" and self.token_dtype and self.vocab_size is None:
            raise ValueError("bare token files (token_dtype) need vocab_size")
        return self


class OptimConfig(Section):
    """[optim]: AdamW and its learning rate."""

    lr: PositiveFloat = 3e-4
    """Learning rate after the warm-up."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the averages of gradient and squared gradient."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the second average."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled decay, on matrices only."""
    warmup_steps: NonNegativeInt = 0
    """Steps over which the rate rises linearly."""
    decay: Literal["cosine", "wsd", "constant"] = "cosine"
    """Half a cosine after the warm-up; warm-up, stable, then a linear decay (wsd); none."""
    decay_steps: PositiveInt | None = None
    """Steps of the decay; default: all after the warm-up (cosine), a tenth of train.steps (wsd)."""
    min_lr_ratio: float = Field(default=0.1, ge=0, le=1)
    """Rate at the end of the decay, as a share of lr."""
    clip_norm: float = Field(default=1.0, ge=0)
    """Largest norm of the gradient over all parameters; 0: no clipping."""
    post_validation: bool = False
    """Step before all ranks have told their norm; an update that was wrong is taken back."""
    post_validation_after: NonNegativeInt = 10
    """Steps in a row without clipping before ranks step without waiting (post_validation)."""

    @validator(mode="after")
    def _betas_in_range(self) -> Self:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must lie in [0, 1), got {self.betas}")
        return self


class TrainConfig(Section):
    """[train]: the run itself."""

    steps: PositiveInt = 100
    """Optimizer steps in the whole run, those before a resume included."""
    microbatch_size: PositiveInt = 1
    """Sequences per micro-batch."""
    precision: Literal["float32", "bfloat16", "float64"] = "float32"
    """Type of the arithmetic; bfloat16 keeps float32 weights for the optimizer."""
    out_dir: str = "runs/longpipe"
    """Folder for checkpoints, metrics, traces and the resolved config."""
    resume: bool = True
    """Go on from the newest checkpoint in out_dir, if there is one."""
    fall_back: bool = False
    """If the newest checkpoint is damaged, take the newest whole one instead of stopping."""
    log_every: PositiveInt = 1
    """Steps between metrics lines."""
    checkpoint_every: NonNegativeInt = 100
    """Steps between checkpoints; 0: only one at the end."""
    keep: PositiveInt = 2
    """Checkpoints to keep."""
    export: bool = True
    """Write the final weights as a Hugging Face folder too: `model` in out_dir."""
    nan_policy: Literal["stop", "skip"] = "stop"
    """At a loss or gradient that is not finite: stop the run, or leave out the update."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto: CUDA if every local rank can have a GPU."""
    hang_timeout_s: PositiveFloat = 300.0
    """A rank that waits longer than this for a message stops the run and says which message."""
    send_delay_s: float = Field(default=0.0, ge=0)
    """Hold every message between ranks back for so long: a slow network, rehearsed on the CPU."""
    threads: PositiveInt = 1
    """CPU threads per rank."""
    pin: bool = False
    """Bind each local rank to a CPU core of its own; only where no other run uses the cores."""
    device_tflops: PositiveFloat | None = None
    """Peak TFLOP/s of one device at this precision; set it to have MFU in the metrics."""
    tensorboard: bool = False
    """Write TensorBoard files too (needs the extra longpipe[tensorboard])."""


class Config(Section):
    """A whole run."""

    model: ModelConfig
    data: DataConfig
    pipeline: PipelineConfig = PipelineConfig()
    tune: TuneConfig = TuneConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()

    @validator(mode="after")
    def _sections_agree(self) -> Self:
        check_cuts(self.pipeline, self.data.sequence_length)
        stages = self.pipeline.ranks * self.pipeline.chunks
        layers = self.model.layers
        if layers and isinstance(self.pipeline.partition, tuple):
            total = sum(self.pipeline.partition)
            if total != layers:
                raise ValueError(f"pipeline.partition adds up to {total}, model.layers = {layers}")
        if layers and stages > layers:
            raise ValueError(
                f"pipeline.ranks * pipeline.chunks = {stages} stages, but "
                f"model.layers = {layers}: use fewer ranks or chunks"
            )
        if self.optim.decay != "constant":
            check_rate(self.optim, self.train.steps)
        return self

    def plain(self) -> dict[str, Any]:
        """Nested dict of plain values; unset optional settings are left out."""
        return self.model_dump(mode="json", exclude_none=True)

    def digest(self) -> str:
        """A hash that is equal for equal configs."""
        return hashlib.sha256(json.dumps(self.plain(), sort_keys=True).encode()).hexdigest()


def check_rate(optim: OptimConfig, steps: int) -> None:
    """Raise ValueError if warm-up and decay do not fit into a run of this many steps."""
    counts = {"optim.warmup_steps": optim.warmup_steps, "optim.decay_steps": optim.decay_steps}
    written = {name: count for name, count in counts.items() if count}
    if (total := sum(written.values())) > steps:
        raise ValueError(
            f"{' + '.join(written)} = {total} is more than train.steps = {steps}: "
            f"lower {' or '.join(written)}, or raise train.steps"
        )
