"""Text generation with a KV cache: streaming, several samples per prompt, cancellation between two tokens."""

from llm.engine.batch import Completion
from llm.engine.engine import Engine
from llm.engine.prompts import prompt_ids, resolve_prompt
from llm.engine.reader import window_start
from llm.engine.reply import Done, Piece, Reason
from llm.engine.weights import is_fastest_on_one_thread, snapshot_model, use_one_thread
