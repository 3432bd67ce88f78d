"""What server and clients share: configuration, frozen CLIP, data, methods and messages."""
