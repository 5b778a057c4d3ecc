"""The bodies of requests and answers, one module a subject.

Not public.
"""
