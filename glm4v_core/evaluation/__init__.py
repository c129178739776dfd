"""Scoring of a model on pages whose truth is known."""
