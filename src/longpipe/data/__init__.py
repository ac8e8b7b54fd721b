"""Token streams: text to token files, token files to packed rows, rows to batches.

>>> from pathlib import Path
>>> from longpipe.data import ByteTokenizer, Loader, TextFiles, find_paths, open_tokens, pack
>>> from longpipe.data import prepare_tokens
>>> source = TextFiles(find_paths(["plays/*.md"]))  # doctest: +SKIP
>>> tokens = open_tokens(prepare_tokens(source, ByteTokenizer(), Path("cache")))  # doctest: +SKIP
>>> batch = Loader(pack([tokens], 4096), seed=0).next_batch(4, 1)  # doctest: +SKIP
"""

from longpipe.data.loader import Batch as Batch
from longpipe.data.loader import Loader as Loader
from longpipe.data.packing import IGNORED as IGNORED
from longpipe.data.packing import PackedRows as PackedRows
from longpipe.data.packing import pack as pack
from longpipe.data.prepare import prepare_bpe as prepare_bpe
from longpipe.data.prepare import prepare_tokens as prepare_tokens
from longpipe.data.text import DiskDataset as DiskDataset
from longpipe.data.text import TextFiles as TextFiles
from longpipe.data.text import find_paths as find_paths
from longpipe.data.tokenizer import ByteTokenizer as ByteTokenizer
from longpipe.data.tokenizer import FileTokenizer as FileTokenizer
from longpipe.data.tokenizer import Tokenizer as Tokenizer
from longpipe.data.tokenizer import load_tokenizer as load_tokenizer
from longpipe.data.tokens import TokenFile as TokenFile
from longpipe.data.tokens import open_bare_tokens as open_bare_tokens
from longpipe.data.tokens import open_tokens as open_tokens
from longpipe.data.tokens import write_tokens as write_tokens
