"""Where our wire does otherwise than Tornado's server, as Tornado's own tests see it: every such test, once, and why.

A test that is not named here passes. One that is named fails on our wire and passes on Tornado's server; with
``in_log_only`` it passes on our wire, too, as soon as nobody looks at what is logged.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Difference:
    """One reason, and the tests that fail for it (``module.class.method``)."""

    reason: str
    tests: tuple[str, ...]
    in_log_only: bool = False


DIFFERENCES = (
    Difference(
        "The same is answered; what the log says of it, and under which name, is the wire's own.",
        (
            "httpserver_test.SSLTest.test_non_ssl_request",
            "httpserver_test.SSLTest.test_error_logging",
            "httpserver_test.HTTPServerRawTest.test_malformed_first_line_log",
            "httpserver_test.HTTPServerRawTest.test_malformed_headers",
            "httpserver_test.HTTPServerRawTest.test_invalid_host_header_with_whitespace",
            "httpserver_test.HTTPServerRawTest.test_chunked_request_body_invalid_size",
            "httpserver_test.HTTPServerRawTest.test_chunked_request_body_duplicate_header",
            "httpserver_test.HTTPServerRawTest.test_chunked_request_body_unsupported_transfer_encoding",
            "httpserver_test.HTTPServerRawTest.test_chunked_request_body_transfer_encoding_and_content_length",
            "httpserver_test.HTTPServerRawTest.test_content_length_list_whitespace",
            "httpserver_test.HTTPServerRawTest.test_invalid_content_length",
            "httpserver_test.InvalidOutputContentLengthTest.test_invalid_output_content_length",
            "httpserver_test.HTTPServerRawTest.test_malformed_first_line_response",
            "httpserver_test.HTTPServerRawTest.test_invalid_methods",
        ),
        in_log_only=True,
    ),
    Difference(
        "The gate refuses the path, which another server might resolve to a different one, before the handler would "
        "refuse it with the same status; the handler's line in the log is missing.",
        (
            "web_test.RedirectHandlerTest.test_redirect_double_slash",
            "web_test.RedirectHandlerTest.test_substitution_after_first_slash",
            "web_test.RedirectHandlerTest.test_invalid_characters",
            "web_test.RedirectHandlerTest.test_template_starting_with_substitution",
        ),
        in_log_only=True,
    ),
    Difference(
        "The gate refuses with 400 a path that another server might resolve to a different one (a doubled slash at "
        "its start, dot segments, backslashes); Tornado leaves it to the handler.",
        (
            "httpserver_test.HTTPServerTest.test_double_slash",
            "web_test.WSGISafeWebTest.test_web_redirect_double_slash",
            "web_test.StaticFileTest.test_path_traversal_protection",
            "web_test.StaticDefaultFilenameRootTest.test_no_open_redirect",
            "web_test.StaticDefaultFilenameRootTest.test_no_open_redirect_backslash",
            "web_test.DecoratorTest.test_no_protocol_relative_redirect",
        ),
    ),
    Difference(
        "The gate takes the line ends of HTTP, CRLF, and no bare line feeds.",
        ("httpserver_test.HTTPConnectionTest.test_newlines",),
    ),
    Difference(
        "The gate refuses Transfer-Encoding on HTTP/1.0 (RFC 9112 section 6.1: such a message has faulty framing).",
        ("httpserver_test.KeepAliveTest.test_keepalive_chunked",),
    ),
    Difference(
        "The gate lets seven methods pass and answers 405 to any other, whatever the handler would do with it.",
        ("web_test.PatchMethodTest.test_other",),
    ),
    Difference(
        "A refusal is a whole answer, with its length and `Connection: close`; Tornado sends a bare status line.",
        (
            "httpserver_test.UnixSocketTestFile.test_unix_socket_bad_request",
            "httpserver_test.UnixSocketTestAbstract.test_unix_socket_bad_request",
        ),
    ),
    Difference(
        "A body that is too large is refused with 413 (RFC 9110 section 15.5.14); Tornado says 400.",
        (
            "httpserver_test.BodyLimitsTest.test_large_body_buffered",
            "httpserver_test.BodyLimitsTest.test_large_body_buffered_chunked",
            "httpserver_test.BodyLimitsTest.test_large_body_streaming",
            "httpserver_test.BodyLimitsTest.test_large_body_streaming_chunked",
            "httpserver_test.BodyLimitsTest.test_body_size_override_reset",
        ),
    ),
    Difference(
        "A body that does not come in time is answered 408 (RFC 9110 section 15.5.9); Tornado just closes.",
        ("httpserver_test.BodyLimitsTest.test_timeout",),
    ),
    Difference(
        "An HTTP/1.0 client is told `Connection: close`, and `keep-alive` in small letters, which mean the same "
        "(RFC 9110 section 7.6.1).",
        (
            "httpserver_test.KeepAliveTest.test_http10",
            "httpserver_test.KeepAliveTest.test_http10_keepalive",
        ),
    ),
    Difference(
        "An empty line before a request is refused: it is skipped by some and taken for the request line by others.",
        ("httpserver_test.KeepAliveTest.test_http10_keepalive_extra_crlf",),
    ),
    Difference(
        "No `xheaders`: whom a client may name as its origin is decided behind the wire, by trusted proxies.",
        (
            "httpserver_test.XHeaderTest.test_ip_headers",
            "httpserver_test.XHeaderTest.test_trusted_downstream",
            "httpserver_test.XHeaderTest.test_scheme_headers",
            "httpserver_test.SSLXHeaderTest.test_request_without_xprotocol",
        ),
    ),
    Difference(
        "No `decompress_request`: a body goes on as it came.",
        (
            "httpserver_test.GzipTest.test_gzip",
            "httpserver_test.GzipTest.test_gzip_case_insensitive",
            "httpserver_test.GzipTest.test_gzip_concatenated",
            "httpserver_test.GzipTest.test_gzip_invalid",
            "httpserver_test.GzipTest.test_size_limit",
            "httpserver_test.GzipMemoryTest.test_gzip_bomb",
            "httpserver_test.StreamingChunkSizeTest.test_compressed_body",
            "httpserver_test.StreamingChunkSizeTest.test_chunked_compressed",
        ),
    ),
    Difference(
        "No `chunk_size`: a delegate is given a body in the pieces in which it was read from the socket.",
        (
            "httpserver_test.StreamingChunkSizeTest.test_regular_body",
            "httpserver_test.StreamingChunkSizeTest.test_chunked_body",
            "web_test.DecoratedStreamingRequestFlowControlTest.test_flow_control_fixed_body",
            "web_test.DecoratedStreamingRequestFlowControlTest.test_flow_control_chunked_body",
            "web_test.DecoratedStreamingRequestFlowControlTest.test_flow_control_compressed_body",
            "web_test.NativeStreamingRequestFlowControlTest.test_flow_control_fixed_body",
            "web_test.NativeStreamingRequestFlowControlTest.test_flow_control_chunked_body",
            "web_test.NativeStreamingRequestFlowControlTest.test_flow_control_compressed_body",
        ),
    ),
    Difference(
        "No `connection.stream`: our connections are no streams of Tornado's, and none can be detached.",
        ("web_test.ClientCloseTest.test_client_close",),
    ),
    Difference(
        "An answer begins with `write_headers`; a head that is written by hand as if it were body raises.",
        ("httpserver_test.LegacyInterfaceTest.test_legacy_interface",),
    ),
    Difference(
        "The exceptions are the same, their words are not.",
        (
            "web_test.IncorrectContentLengthTest.test_content_length_too_high",
            "web_test.IncorrectContentLengthTest.test_content_length_too_low",
        ),
    ),
)
