"""The configuration of a run: what there is to set (`schema`), how it is read, checked, resolved and kept."""

from llm.config.check import check, get_value
from llm.config.fields import Field, fields_of, parse_value
from llm.config.parse import diff, from_mapping, from_toml, resumed_config, to_mapping, to_toml, with_overrides
from llm.config.presets import (
    Preset,
    check_name,
    check_own_name,
    default_home,
    list_presets,
    load_preset,
    preset_notes,
    save_preset,
    shipped_directory,
)
from llm.config.resolve import resolve_accumulation, resolve_model, resolve_seq_len
from llm.config.schema import (
    CheckpointConfig,
    DataConfig,
    DecodeConfig,
    EvaluateConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    SampleConfig,
    ScheduleConfig,
    TokenizerConfig,
    TrainConfig,
)

__all__ = [
    "CheckpointConfig",
    "DataConfig",
    "DecodeConfig",
    "EvaluateConfig",
    "Field",
    "ModelConfig",
    "OptimConfig",
    "Preset",
    "RunConfig",
    "SampleConfig",
    "ScheduleConfig",
    "TokenizerConfig",
    "TrainConfig",
    "check",
    "check_name",
    "check_own_name",
    "default_home",
    "diff",
    "fields_of",
    "from_mapping",
    "from_toml",
    "get_value",
    "list_presets",
    "load_preset",
    "parse_value",
    "preset_notes",
    "resolve_accumulation",
    "resolve_model",
    "resolve_seq_len",
    "resumed_config",
    "save_preset",
    "shipped_directory",
    "to_mapping",
    "to_toml",
    "with_overrides",
]
