"""Inspection of a Triton server: reads all it reports, and probes what it allows, without changing anything."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import grpc

from clipdex.base.arrays import Array
from clipdex.base.errors import AccessDenied, ClipdexError
from clipdex.wire.connection import Connection
from clipdex.wire.credentials import Credentials
from clipdex.wire.generated import model_config_pb2, service_pb2
from clipdex.wire.inspect.findings import Batching, InspectedModel, InspectedServer, InstanceGroup, Tensor
from clipdex.wire.messages import infer_request, output_array, statistics
from clipdex.wire.model_config import from_message, parameters_of
from clipdex.wire.status import cause_of, is_restricted, translate
from clipdex.wire.transport import LARGEST_ANSWER

__all__ = ["Inspection", "model_of"]

# Triton's refusals of an unknown name and of a call that is not allowed differ. No model, memory or file has this
# name, so a call that is allowed changes nothing.
_NOBODY = f"clipdex-doctor-{secrets.token_hex(8)}"


class Inspection:
    """A connection to one server. Close it, or use it in a `with`."""

    def __init__(self, address: str, credentials: Credentials | None = None, *, timeout_s: float = 10.0) -> None:
        credentials = credentials or Credentials()
        credentials.check(address)
        self.address = address
        self._timeout_s = timeout_s
        self._connection = Connection(address, credentials, LARGEST_ANSWER)
        # What any client may do is probed without this user's key.
        self._anybody = Connection(address, credentials, with_local_key=False)

    def server(self) -> InspectedServer:
        """Inspect the server: its name, version and models, and what it allows.

        Raises:
            ServerUnreachable: nothing answers.
        """
        metadata = self._ask("ServerMetadata", service_pb2.ServerMetadataRequest())
        ready = self._ask("ServerReady", service_pb2.ServerReadyRequest()).ready
        index = self._index()
        # A reloaded model may be listed with an older version too, which is no longer served.
        served = {model.name for model in index if model.state == "READY"}
        return InspectedServer(
            name=metadata.name,
            version=metadata.version,
            ready=ready,
            models=tuple(sorted(served)),
            unready={m.name: m.reason or m.state or "not loaded" for m in index if m.name not in served},
            system_memory=self._maps_memory(),
            cuda_memory=self._allows(
                "CudaSharedMemoryStatus", service_pb2.CudaSharedMemoryStatusRequest(name=""), known=()
            ),
            # If unloading is allowed, an unknown model is "not found".
            model_control=self._allows(
                "RepositoryModelUnload",
                service_pb2.RepositoryModelUnloadRequest(model_name=_NOBODY),
                known=(_NOBODY, "not found", "unknown model"),
            ),
            settings=self._allows("LogSettings", service_pb2.LogSettingsRequest(), known=()),
        )

    def model(self, name: str) -> InspectedModel:
        """Inspect one model, with the server's own counters.

        Raises:
            ModelNotFound: the server has no model of that name.
        """
        config = self._ask("ModelConfig", service_pb2.ModelConfigRequest(name=name)).config
        counted = self._ask("ModelStatistics", service_pb2.ModelStatisticsRequest(name=name))
        return model_of(config, statistics=statistics(counted))

    def infer(self, model: str, inputs: Mapping[str, Array], output: str, timeout_s: float) -> Array:
        """Send one request -> the output tensor; raises the same errors as a client."""
        return output_array(self._ask("ModelInfer", infer_request(model, inputs, output), timeout_s), output)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
        self._anybody.close()

    def __enter__(self) -> Inspection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _index(self) -> list[Any]:
        """List each version of each model, with its state."""
        try:
            return list(self._ask("RepositoryIndex", service_pb2.RepositoryIndexRequest()).models)
        except AccessDenied as exc:
            if not isinstance(exc.__cause__, grpc.RpcError) or not is_restricted(exc.__cause__):
                raise
        counted = self._ask("ModelStatistics", service_pb2.ModelStatisticsRequest())
        listed = service_pb2.RepositoryIndexResponse()
        for model in counted.model_stats:  # it has the models that are ready, and no others
            listed.models.add(name=model.name, version=model.version, state="READY")
        return list(listed.models)

    def _maps_memory(self) -> bool:
        """Return whether the server tries to open shared memory that a client names; this name does not exist."""
        request = service_pb2.SystemSharedMemoryRegisterRequest(
            name=_NOBODY, key=f"/{_NOBODY}", offset=0, byte_size=1
        )
        return self._allows(
            "SystemSharedMemoryRegister", request, known=("Unable to open shared memory region", f"/{_NOBODY}")
        )

    def _allows(self, method: str, request: Any, *, known: tuple[str, ...]) -> bool:
        """Return whether a call is answered, or refused only because it names nothing that exists."""
        try:
            self._anybody.call(method, request, self._timeout_s)
        except grpc.RpcError as exc:
            details = (exc.details() or "").lower()
            return any(sign.lower() in details for sign in known)
        return True

    def _ask(self, method: str, request: Any, timeout_s: float | None = None) -> Any:
        try:
            return self._connection.call(method, request, timeout_s or self._timeout_s)
        except grpc.RpcError as exc:
            error: ClipdexError = translate(exc, self.address)
            raise error from cause_of(error, exc)


def model_of(config: Any, **more: Any) -> InspectedModel:
    """Convert an `inference.ModelConfig` message to plain values.

    Raises:
        CardError: a number in it is out of range.
    """
    from_message(config)
    kinds = model_config_pb2.ModelInstanceGroup.Kind
    batching = None
    if config.HasField("dynamic_batching"):
        preferred = tuple(config.dynamic_batching.preferred_batch_size)
        batching = Batching(
            delay_us=config.dynamic_batching.max_queue_delay_microseconds,
            preferred=() if preferred == (config.max_batch_size,) else preferred,
            queue_size=config.dynamic_batching.default_queue_policy.max_queue_size,
            queue_timeout_us=config.dynamic_batching.default_queue_policy.default_timeout_microseconds,
        )
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    return InspectedModel(
        name=config.name,
        backend=config.backend,
        max_batch_size=config.max_batch_size,
        inputs=_tensors(config.input),
        outputs=_tensors(config.output),
        groups=tuple(
            InstanceGroup(_name(kinds, group.kind), group.count or 1, tuple(group.gpus))
            for group in config.instance_group
        ),
        batching=batching,
        parameters=parameters_of(config),
        accelerators={each.name: dict(each.parameters) for each in accelerators},
        warm_ups=tuple(each.batch_size for each in config.model_warmup),
        **more,
    )


def _tensors(messages: Any) -> tuple[Tensor, ...]:
    names = model_config_pb2.DataType
    return tuple(Tensor(m.name, _name(names, m.data_type).removeprefix("TYPE_"), tuple(m.dims)) for m in messages)


def _name(names: Any, number: int) -> str:
    """Return an enumeration's name for a number; the number itself if a newer Triton added it."""
    return str(names.Name(number)) if number in names.values() else str(number)
