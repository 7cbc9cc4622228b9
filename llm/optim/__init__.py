"""Optimizers, gradient clipping and learning-rate schedules."""

from llm.optim.build import build_optimizer, unused_lr_warning
from llm.optim.clipping import clip_grad_norm
from llm.optim.optimizer import Group, Optimizer, Rule
from llm.optim.schedule import lr_at, lr_multiplier_at, momentum_at
