"""An HTTP server with the OpenAI API in front of one model. Starlette and uvicorn are the extra `serve`."""
