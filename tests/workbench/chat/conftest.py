"""The model of words that the Chat screen opens in most tests."""

from __future__ import annotations

import pytest

import workbench.chat.screen as screen_module
from tests.workbench.chat.chat_for_tests import FakeModel
from workbench.chat.service import ChatService


@pytest.fixture
def chat_model(monkeypatch):
    """The model the screen opens for any reference."""
    chat_model = FakeModel()
    chat_model.context = 200

    def service(home, training, post):
        return ChatService(home, training, post, opener=lambda *arguments: chat_model)

    monkeypatch.setattr(screen_module, "ChatService", service)
    monkeypatch.setattr("workbench.chat.reply.POST_EVERY", 0.0)  # else a reply held at its gate may keep its last words
    return chat_model
