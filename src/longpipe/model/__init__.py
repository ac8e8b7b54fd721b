"""The decoder: a Llama-family model over segments of a sequence, split into pipeline stages.

    config    DecoderConfig: sizes and features, from and to a Hugging Face `config.json`
    stage     DecoderStage: what a rank runs; WholeSequence: a stage as a plain module
    split     which stage holds which layers and parameters; tied embeddings
    batch     MicroBatch: tokens, labels, and the documents packed in them
    linear    WeightQueue: weight gradients at once or deferred; Build: types, device, seed
    attention KVStore: keys and values between segments; kernels, blockwise: the arithmetic
    functions, norm, rope, loss: the rest of the arithmetic, each keeping little for the backward
    hf        weights and config in and out as Hugging Face files

One training step of an unsplit model over segments:

>>> import torch
>>> from longpipe.ir import segments_from_lengths
>>> config = DecoderConfig(hidden=16, layers=1, heads=2, kv_heads=1, head_dim=8,
...                        intermediate=32, vocab=50)
>>> stage = DecoderStage(config, range(1))
>>> tokens = torch.arange(8).reshape(1, 8)
>>> state = stage.open(MicroBatch.whole(tokens, labels=tokens + 1))
>>> segments = segments_from_lengths([5, 3])
>>> losses = [stage(None, state, segment) for segment in segments]
>>> for loss in reversed(losses):  # the last segment first
...     loss.backward()
>>> stage.close(state)
"""

from longpipe.model.batch import MicroBatch as MicroBatch
from longpipe.model.config import DecoderConfig as DecoderConfig
from longpipe.model.linear import Build as Build
from longpipe.model.linear import WeightQueue as WeightQueue
from longpipe.model.loss import IGNORED as IGNORED
from longpipe.model.rope_config import Rope as Rope
from longpipe.model.split import check_partition as check_partition
from longpipe.model.split import make_stage as make_stage
from longpipe.model.split import parameter_shapes as parameter_shapes
from longpipe.model.split import share_ties as share_ties
from longpipe.model.split import ties as ties
from longpipe.model.stage import BatchState as BatchState
from longpipe.model.stage import DecoderStage as DecoderStage
from longpipe.model.stage import WholeSequence as WholeSequence
