"""The main screens and the windows of the command palette. To add a screen, add a line to `SCREENS`."""

from __future__ import annotations

from typing import Any

from textual.screen import Screen

from workbench.ui.host import Destination


def create_presets() -> Screen[Any]:
    from workbench.presets.screen import PresetsScreen

    return PresetsScreen(id="presets")


def create_train() -> Screen[Any]:
    from workbench.train.screen import TrainScreen

    return TrainScreen(id="train")


def create_runs() -> Screen[Any]:
    from workbench.runs.screen import RunsScreen

    return RunsScreen(id="runs")


def create_chat() -> Screen[Any]:
    from workbench.chat.screen import ChatScreen

    return ChatScreen(id="chat")


def create_data() -> Screen[Any]:
    from workbench.data.screen import DataScreen

    return DataScreen(id="data")


def create_queue() -> Screen[Any]:
    from workbench.train.queue_screen import QueueScreen

    return QueueScreen()


def create_trash() -> Screen[Any]:
    from workbench.runs.trash_screen import TrashScreen

    return TrashScreen()


def create_cached_data() -> Screen[Any]:
    from workbench.data.prepared_screen import PreparedDataScreen

    return PreparedDataScreen()


def create_serve() -> Screen[Any]:
    from workbench.serve.screen import ServeScreen

    return ServeScreen()


SCREENS = (
    Destination("presets", "Presets", "Choose what to train", create_presets, "1"),
    Destination("train", "Train", "Watch and steer a run", create_train, "2"),
    Destination("runs", "Runs", "All runs and their checkpoints", create_runs, "3"),
    Destination("chat", "Chat", "Chat with a model", create_chat, "4"),
    Destination("data", "Data", "Corpora and tokenizers", create_data, "5"),
)
WINDOWS = (
    Destination("queue", "Queue", "Runs waiting to be trained", create_queue),
    Destination("trash", "Trash", "Deleted runs", create_trash),
    Destination("serve", "Serve", "The OpenAI API of a model, for other programs", create_serve),
    Destination("cached-data", "Prepared data", "Tokenized datasets, and the runs that use them", create_cached_data),
)
