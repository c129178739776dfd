"""Every failure glm4v reports, as one tree.

Glm4vError
├── ConfigError (ValueError)            a setting, not the data, is wrong
│   ├── UnknownOptionError              an option name that does not exist
│   ├── UnsupportedError                an option or feature that this model or engine lacks
│   ├── ServerAccessError (PermissionError)  a remote server refuses the API key
│   └── MissingDependencyError (ImportError)
├── InputError (ValueError)             one request or one file is wrong; the others continue
│   ├── MessageError                    roles, parts or tool results that cannot be rendered
│   ├── ConstraintError                 a schema, regex or choice list that cannot be compiled
│   ├── ContextOverflowError            prompt plus max_tokens exceed the context window
│   ├── RequestRefusedError             a remote server rejects the request
│   ├── ImageError
│   │   ├── ImageNotFoundError (FileNotFoundError)
│   │   ├── ImageFormatError            not one of the accepted formats
│   │   ├── ImageBrokenError            truncated or cannot be decoded
│   │   ├── ImageTooLargeError          pixels, bytes or frames over the cap
│   │   ├── ImageShapeError             empty or too elongated
│   │   └── ImageUrlError               a remote URL without a fetch policy
│   └── PageError
│       ├── PageBrokenError             a PDF that cannot be parsed
│       ├── PageEncryptedError          a PDF that needs a password
│       └── PageLimitError              more pages than the caller allowed
├── ModelError (RuntimeError)
│   ├── ModelNotFoundError              no such folder or hub id, or not cached while offline
│   └── ModelLoadError                  found, but it cannot be loaded
├── EngineError (RuntimeError)          the engine failed while serving a request
│   ├── EngineClosedError
│   ├── EngineDeadError                 the worker stopped; every waiting caller gets this error
│   ├── OutOfMemoryError (MemoryError)  this request did not fit; the engine keeps running
│   ├── EngineTimeoutError (TimeoutError)
│   └── ServerError                     a remote server answered with an error
│       ├── ServerBusyError             it has more requests than it accepts
│       └── ServerUnreachableError (ConnectionError)  no connection, or the connection was lost
└── OutputError (RuntimeError)          the model's answer is not what was asked for
    ├── TruncatedOutputError            cut by max_tokens before it was complete
    └── InvalidOutputError              complete, but does not satisfy the constraint
"""

from __future__ import annotations

from dataclasses import dataclass


class Glm4vError(Exception):
    """Root of all errors raised by glm4v.

    Attributes:
        code: stable machine-readable name, the same in rows, logs and traces.
        message: what went wrong, without the hint.
        hint: what the user can do about it.
    """

    code = "glm4v_error"
    hint = "Please report this with the full traceback."

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if hint is not None:
            self.hint = hint

    def __str__(self) -> str:
        # What another library said often ends without a full stop.
        stop = "" if self.message.endswith((".", "!", "?", "…", "。")) else "."
        return f"{self.message}{stop} Hint: {self.hint}"


class ConfigError(Glm4vError, ValueError):
    code = "config"
    hint = "Check the settings against the documentation."


class UnknownOptionError(ConfigError):
    code = "unknown_option"
    hint = "Check the spelling; unknown options are never ignored."


class UnsupportedError(ConfigError):
    code = "unsupported"
    hint = "Choose another engine or model; `glm4v doctor` lists what each can do."


class ServerAccessError(ConfigError, PermissionError):
    code = "server_access"
    hint = "Check the API key: the engine's option api_key, or GLM4V_API_KEY."


class MissingDependencyError(ConfigError, ImportError):
    code = "missing_dependency"
    hint = "Install the extra named in the message."


class InputError(Glm4vError, ValueError):
    code = "input"
    hint = "Correct the input and send it again."


class MessageError(InputError):
    code = "message"
    hint = "Check the roles and parts of the messages."


class ConstraintError(InputError):
    code = "constraint"
    hint = "Simplify the schema, regex or choices."


class ContextOverflowError(InputError):
    code = "context_overflow"
    hint = "Shorten the prompt, lower max_tokens, or limit image size with max_image_tokens."


class RequestRefusedError(InputError):
    code = "request_refused"
    hint = "The message gives the server's reason; what it accepts depends on the options it was started with."


class ImageError(InputError):
    code = "image"
    hint = "Open the file in an image viewer to see whether it is intact."


class ImageNotFoundError(ImageError, FileNotFoundError):
    code = "image_not_found"
    hint = "Check the path."


class ImageFormatError(ImageError):
    code = "image_format"
    hint = "Convert it to PNG, JPEG, WebP, GIF, BMP or TIFF."


class ImageBrokenError(ImageError):
    code = "image_broken"
    hint = "The file is cut off or damaged; copy or scan it again."


class ImageTooLargeError(ImageError):
    code = "image_too_large"
    hint = "Scale it down, or raise the limit named in the message."


class ImageShapeError(ImageError):
    code = "image_shape"
    hint = "Crop or pad it: neither side may be empty or more than 200 times the other."


class ImageUrlError(ImageError):
    code = "image_url"
    hint = "Download the image and pass its bytes or path; nothing is fetched by default."


class PageError(InputError):
    """A page of a document that cannot be read, or a whole document.

    Attributes:
        number: the page, counted from 1; None if the error is about the whole document.
    """

    code = "page"
    number: int | None = None
    hint = "Open the file in a document viewer to see whether it is intact."


class PageBrokenError(PageError):
    code = "page_broken"


class PageEncryptedError(PageError):
    code = "page_encrypted"
    hint = "Pass the password, or save a copy without one."


class PageLimitError(PageError):
    code = "page_limit"
    hint = "Raise max_pages, or split the file."


class ModelError(Glm4vError, RuntimeError):
    code = "model"
    hint = "Check the model's name and files."


class ModelNotFoundError(ModelError):
    code = "model_not_found"
    hint = "Pass a checkpoint folder, a hub id that is cached or reachable, or `tiny`."


class ModelLoadError(ModelError):
    code = "model_load"
    hint = "Run `glm4v doctor` to see which engines and models this machine can run."


class EngineError(Glm4vError, RuntimeError):
    code = "engine"
    hint = "Send the request again; if it fails again, reload the model."


class EngineClosedError(EngineError):
    code = "engine_closed"
    hint = "Load the model again after close()."


class EngineDeadError(EngineError):
    code = "engine_dead"
    hint = "Close it and load the model again; the cause is chained."


class OutOfMemoryError(EngineError, MemoryError):
    code = "out_of_memory"
    hint = "Lower max_image_tokens or max_tokens, or send fewer requests at once."


class EngineTimeoutError(EngineError, TimeoutError):
    code = "timeout"
    hint = "Raise the timeout or lower max_tokens."


class ServerError(EngineError):
    code = "server"
    hint = "See the server's log."


class ServerBusyError(ServerError):
    code = "server_busy"
    hint = "Send fewer requests at once, raise the engine's option retries, or start more replicas."


class ServerUnreachableError(ServerError, ConnectionError):
    code = "server_unreachable"
    hint = "Check base_url and that the server is running; if it stopped, its log says why."


class OutputError(Glm4vError, RuntimeError):
    code = "output"
    hint = "Ask again, or with another prompt."


class TruncatedOutputError(OutputError):
    code = "output_truncated"
    hint = "Raise max_tokens."


class InvalidOutputError(OutputError):
    code = "output_invalid"
    hint = "Use a constraint, so that the answer cannot be malformed."


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a page or request has no result, as plain data. The text of an error, never the model's text."""

    code: str
    message: str
    hint: str

    @classmethod
    def of(cls, error: Glm4vError) -> Failure:
        """Copy the code, message and hint of an error."""
        return cls(error.code, error.message, error.hint)


def is_transient(error: BaseException) -> bool:
    """Tell whether the same request may succeed later: the engine failed at it but keeps running."""
    return isinstance(error, EngineError) and not isinstance(error, (EngineClosedError, EngineDeadError))


def is_of_one_page(error: BaseException) -> bool:
    """Tell whether an error affects one page only. An error such as a wrong setting would affect every page."""
    return isinstance(error, (InputError, OutputError)) or is_transient(error)
