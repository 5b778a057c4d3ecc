"""Kinds of picture files: which decoder a file gets, and the decoders that Pillow lacks."""
