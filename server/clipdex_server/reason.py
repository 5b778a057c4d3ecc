"""The reason why Triton exited, read from its log, as one clause."""

from __future__ import annotations

import re
import signal

from clipdex_server.supervisor import LOST

__all__ = ["model_failures", "why_it_ended"]

# E1123 14:54:25.466764 5711 model_lifecycle.cc:642] "failed to load 'NAME' version 1: Internal: REASON"
# E1123 14:54:27.288357 5886 model_repository_manager.cc:1460] "Poll failed for model directory 'NAME': REASON"
# E1123 14:54:27.271657 5881 model_repository_manager.cc:724] "failed to load model 'NAME': REASON"
# E1123 14:54:45.426093 6045 model_repository_manager.cc:1415] "failed to poll model 'NAME': REASON"
_MODEL = re.compile(
    r"(?:failed to load|Poll failed for model directory|failed to load model|failed to poll model)"
    r" '(?P<name>[^']+)'(?: version \d+)?: (?P<reason>.*?)\"?$"
)
# [libprotobuf ERROR ...] Error parsing text-format inference.ModelConfig: 3:17: Expected integer, got: eight
_CONFIG = re.compile(r"Error parsing text-format \S+: (?P<line>\d+):(?P<column>\d+): (?P<reason>.*)$")
# E1123 15:01:02.000000 5711 main.cc:200] "failed to start GRPC service: Unavailable - Socket '...' already in use"
_ENDPOINT = re.compile(r"failed to start (?P<name>\w+) service: (?:\w[\w ]* - )?(?P<reason>.*?)\"?$")
_SIGNAL = re.compile(r"^Signal \((?P<number>\d+)\) received")
_ERROR = re.compile(r"^(?:error: |E\d{4} [\d:.]+ \d+ \S+\] \"?)(?P<reason>.*?)\"?$")
_KIND = re.compile(r"^(?:Internal|Invalid argument|Not found|Unavailable|Unsupported|Unknown): ")


def model_failures(log: str) -> dict[str, str]:
    """Return the models that did not load, with Triton's reasons."""
    failures: dict[str, str] = {}
    config_error = ""
    for line in log.splitlines():
        if found := _CONFIG.search(line):
            config_error = (
                f"config.pbtxt, line {found['line']}, column {found['column']}: {found['reason'].rstrip('.')}"
            )
        elif found := _MODEL.search(line):
            reason = config_error if "failed to read text proto" in found["reason"] else found["reason"]
            failures.setdefault(found["name"], _plain(reason, found["name"]))
    return failures


def why_it_ended(log: str, status: int | None) -> str:
    """Explain why Triton exited, in one clause such as: the model demo_text did not load: Expected integer.

    status: Triton's exit status, negative for a signal, or None if it has to be stopped.
    """
    failures = model_failures(log)
    if len(failures) == 1:
        ((name, reason),) = failures.items()
        return f"the model {name} did not load: {reason}"
    if failures:
        listed = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
        return f"{len(failures)} models did not load: {listed}"
    lines = log.splitlines()
    for line in lines:
        if line.startswith(LOST):
            return (
                f"the process of its model {line.removeprefix(LOST).strip()} died, perhaps because memory ran out"
            )
        if found := _ENDPOINT.search(line):
            return f"its {found['name']} endpoint did not start: {_plain(found['reason'])}"
    if status is not None and status < 0:
        hint = ", perhaps because memory ran out" if -status == signal.SIGKILL else ""
        return f"it was killed by {_signal_name(-status)}{hint}"
    for line in lines:
        if found := _SIGNAL.match(line):
            return f"another process stopped it with {_signal_name(int(found['number']))}"
    errors = [found["reason"] for line in lines if (found := _ERROR.match(line))]
    if errors:
        return _plain(errors[-1])
    return lines[-1].strip() if lines else "it wrote nothing to its log"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most of the real-time ones have no name
        return f"signal {number}"


def _plain(reason: str, model: str = "") -> str:
    """Strip a reason of status kinds, Python's traceback, and the repeated model name."""
    text = reason.replace('\\"', '"').replace("\\n", "\n").split("\n\nAt:\n")[0]
    text = _KIND.sub("", text).removeprefix("TritonModelException: ")
    text = text.removeprefix(f"unable to load model '{model}', ")
    return " ".join(text.split()).rstrip(".")
