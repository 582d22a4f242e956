"""A module per engine, each with its VERSION and a class Engine; see `engine.py`."""
