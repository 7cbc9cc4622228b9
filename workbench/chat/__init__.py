"""The Chat screen and the chat service."""
