"""What server and clients share: configuration, frozen CLIP, data, methods and messages."""

__version__ = "0.1.0"
