"""The configuration of a run: its fields (`schema`), and how it is parsed, checked, resolved and saved."""

from llm.config.check import check, get_value
from llm.config.decode_schema import DecodeConfig, WeightFormat
from llm.config.fields import Field, fields_of, parse_value
from llm.config.parse import (
    defaults_of_0_1_0,
    diff,
    from_mapping,
    from_toml,
    resumed_config,
    to_mapping,
    to_toml,
    with_overrides,
)
from llm.config.presets import (
    NAME_LENGTH,
    Preset,
    check_name,
    check_own_name,
    default_home,
    list_presets,
    load_preset,
    preset_notes,
    preset_sizes,
    save_preset,
    shipped_directory,
)
from llm.config.renamed import RENAMED, current_path
from llm.config.resolve import (
    evaluation_batch_size,
    resolve_accumulation,
    resolve_model,
    resolve_seq_len,
    smallest_micro_batch,
)
from llm.config.schema import (
    CheckpointConfig,
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    SampleConfig,
    ScheduleConfig,
    TokenizerConfig,
    TrainConfig,
)
from llm.config.tune_schema import TuneConfig
