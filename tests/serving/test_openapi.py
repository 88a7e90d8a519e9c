from pathlib import Path

from starlette.routing import Route

from pconv_deploy.serving import create_app
from pconv_deploy.serving.openapi import document
from tests.serving.live import ask


def test_it_names_every_address(engine: Path) -> None:
    app = create_app({"tiny": engine})
    app.state.service.close()
    there = {
        (route.path, method)
        for route in app.routes
        if isinstance(route, Route) and "versions/1" not in route.path
        for method in route.methods or ()
        if method != "HEAD"
    }
    pages = {("/", "GET"), ("/page/{name}", "GET"), ("/v1/examples/{name}", "GET")}
    described = {
        (path, method.upper())
        for path, operations in document()["paths"].items()
        for method in operations
    }
    assert described == there - pages


def test_the_page_for_people(address: tuple[str, int]) -> None:
    text = ask(address, "/docs").body.decode()
    assert "POST /v1/models/{model}/fill" in text
    assert "mask_convention" in text
    assert "<script" not in text
    assert ask(address, "/page/docs.css").headers["content-type"].startswith("text/css")
    assert ask(address, "/openapi.json").json == document()
