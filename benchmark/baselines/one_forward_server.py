"""A reward server as trainers ship it: FastAPI, and one forward pass for each request.

The model runs inside the async handler, so requests wait for each other; nothing is batched across
them. `POST /get_reward {"query": [formatted texts]}` answers `{"rewards": [floats]}`.

    python -m baselines.one_forward_server --model FOLDER --port 5000
"""

import argparse
import logging

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from transformers import AutoModelForSequenceClassification, AutoTokenizer

logger = logging.getLogger(__name__)

MAX_TOKENS = 8192


class RewardModel:
    """The model behind the route."""

    def __init__(self, folder: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa"
        ).eval()

    @torch.no_grad()
    def rewards(self, queries: list[str]) -> list[float]:
        """Scores of formatted texts, in one padded forward pass."""
        inputs = self.tokenizer(
            queries,
            add_special_tokens=False,
            padding=True,
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="pt",
        )
        scores: list[float] = self.model(**inputs).logits.squeeze(-1).tolist()
        return scores


def create_app(folder: str) -> FastAPI:
    """The application, with its model loaded."""
    app = FastAPI()
    reward_model = RewardModel(folder)

    @app.post("/get_reward")
    async def get_reward(request: Request) -> JSONResponse:
        data = await request.json()
        return JSONResponse({"rewards": reward_model.rewards(data["query"])})

    return app


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5000)
    options = parser.parse_args()
    uvicorn.run(
        create_app(options.model), host=options.host, port=options.port, log_level="warning"
    )


if __name__ == "__main__":
    main()
