"""A server that is none, for the tests of programs that use clipdex. Public."""

from clipdex.wire.fake import FakeTransport

__all__ = ["FakeTransport"]
