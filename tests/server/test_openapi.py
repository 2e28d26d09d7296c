"""The OpenAPI document, and what schemathesis sends by it."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from decoupe.server.app import Settings, create_app
from server.running import Running

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
ROUTES = [
    *(("POST", path) for path in ("/v1/cut", "/v1/segment", "/v1.0/removebg", "/api/remove")),
    *(("GET", path) for path in ("/v1/models", "/readyz", "/metrics")),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_nothing_that_the_document_allows_fails_the_server(server: Running, method: str, path: str) -> None:
    operation = schemathesis.openapi.from_url(f"{server.address}/openapi.json")[path][method]

    @settings(max_examples=15, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def send(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=CHECKS)

    send()


def test_examples_are_in_the_document(server: Running) -> None:
    with server.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {
        *("/v1/cut", "/v1/segment", "/v1/models", "/v1.0/removebg", "/api/remove"),
        *("/healthz", "/readyz", "/metrics"),
    }
    for path, methods in paths.items():
        (route,) = methods.values()
        assert route["summary"]
        if "requestBody" in route:
            assert route["requestBody"]["content"]["multipart/form-data"]["examples"], path


def test_how_the_token_is_sent_is_in_the_document(server: Running) -> None:
    with server.client() as client:
        told = client.get("/openapi.json").json()
    assert told["components"]["securitySchemes"] == {
        "bearer": {"type": "http", "scheme": "bearer"},
        "apiKey": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
    }
    assert told["security"] == [{"bearer": []}, {"apiKey": []}, {}]  # the last: this server asks for none
    asked = create_app(Settings(token="correct-horse-battery")).openapi()
    assert asked["security"] == [{"bearer": []}, {"apiKey": []}]
    routes = {path: next(iter(methods.values())) for path, methods in told["paths"].items()}
    assert {path for path in routes if "security" in routes[path]} == {"/healthz", "/readyz"}
    assert routes["/readyz"]["security"] == []


def test_remove_bgs_body_is_told_in_each_of_its_forms(server: Running) -> None:
    with server.client() as client:
        body = client.get("/openapi.json").json()["paths"]["/v1.0/removebg"]["post"]["requestBody"]
    kinds = ("multipart/form-data", "application/json", "application/x-www-form-urlencoded")
    assert body["content"].keys() == {*kinds}


def test_every_option_that_other_clients_may_send_is_in_the_document(server: Running) -> None:
    with server.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
    for path, options in {"/v1.0/removebg": ["type_level"], "/api/remove": ["af", "ab", "ae"]}.items():
        form = paths[path]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
        assert {*options} <= form["properties"].keys(), path
