"""A site in FastAPI, behind Mangum; the same in every framework."""
import asyncio

from fastapi import FastAPI, Request, Response
from mangum import Mangum

app = FastAPI()


@app.get("/context", status_code=201)
async def context(request: Request, x: str | None = None):
    return {"method": request.method, "path": request.url.path, "x": x, "id": request.scope["aws.context"].aws_request_id}


@app.get("/fail")
async def fail():
    raise RuntimeError("on purpose")


@app.get("/text")
async def text(bytes: int):
    return Response("x" * bytes, media_type="text/plain")


@app.get("/binary")
async def binary():
    return Response(bytes(range(256)), media_type="application/octet-stream")


@app.post("/echo")
async def echo(request: Request):
    return Response(await request.body(), headers={"content-type": request.headers["content-type"]})


@app.get("/cookies")
async def cookies(request: Request):
    response = Response(request.headers.get("cookie", ""))
    response.headers.append("set-cookie", "a=1")
    response.headers.append("set-cookie", "b=2; Path=/; Secure")
    return response


@app.get("/wait")
async def wait(ms: int, number: int = 0):
    await asyncio.sleep(ms / 1000)
    return {"number": number}


handler = Mangum(app, lifespan="off")
