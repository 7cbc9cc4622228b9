"""Curves read from event logs and the charts that draw them."""
