"""The verbs of an annotation over HTTP. They are those of nnInteractive's inference session, so that programs written
for it find them, and a few more.

A voxel is [x, y, z], indices of the image file's voxels counted from 0, x fastest; `axis` is that of the planes that
are segmented: 0 z, 1 y, 2 x. An array is a block: `box` holds first and one past the last index of its axes z, y, x,
`data` is Base64 of zlib of its values in C order, of `bool` eight to a byte, the first in the highest bit. A request
may name its case in the header `x-case`, percent-encoded; where another one is open by then, nothing is changed.
"""

from __future__ import annotations

from dataclasses import asdict
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import nibabel
import numpy as np

import samunet
from samunet.core.codec import encode
from samunet.core.parts import with_way_out
from samunet.errors import ConfigError, InUseError, SamunetError, in_words
from samunet.imageio.nibabel_reader import affine_of
from samunet.interaction.session import Change, Session
from samunet.interaction.state import Block
from samunet.serving.bodies import (
    BBox,
    Carry,
    Fault,
    Image,
    InitialSegmentation,
    Interaction,
    Line,
    Naming,
    OfObject,
    Point,
    Stroke,
    array_of,
    volume_of,
    voxels,
)
from samunet.serving.desk import MEANT, Desk

if TYPE_CHECKING:
    from fastapi import FastAPI

PAGE = {
    "": "text/html; charset=utf-8",
    "annotate.js": "text/javascript; charset=utf-8",
    "annotate.css": "text/css; charset=utf-8",
    "planes.js": "text/javascript; charset=utf-8",
    "niivue.js": "text/javascript; charset=utf-8",
}
"""Files of the page, and what they are."""
INT16 = np.iinfo(np.int16)


class Verbs:
    """What may be asked for; each method is one verb, and its first line the description."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def state(self) -> dict[str, Any]:
        """Tell what is open: case, grid, objects, draft, and what may be undone."""
        desk = self.desk
        with desk.lock:
            told: dict[str, Any] = {"case": desk.case, "cases": self._cases(), "model": desk.model.name}
            if not desk.case:
                return told
            session, grid = desk.session, desk.session.volume.geometry
            draft = session.state.draft
            return told | {
                "shape": grid.shape[::-1],
                "spacing": grid.spacing[::-1],
                "orientation": grid.orientation[::-1],
                "affine": affine_of(grid).tolist(),
                "planes": session.looks is not None,
                "output": str(session.output),
                "objects": encode(session.state.objects),
                "draft": None if draft is None else _told(draft.value, draft.quality, draft.prompts),
                "undo": session.state.can_undo,
                "redo": session.state.can_redo,
                "saved": bool(session.steps) and session.steps[-1][0] == "save",
            }

    def progress(self) -> dict[str, int]:
        """Tell how many planes are encoded beforehand, of how many; refused with the reason where that ended early."""
        if self.desk.fault is not None:
            raise self.desk.fault
        return dict(zip(("done", "of"), self.desk.encoded, strict=True))

    def set_image(self, body: Image) -> dict[str, Any]:
        """Open a case of the server, or an image that is sent."""
        if body.array is None:
            self.desk.open(body.name)
        else:
            self.desk.open_array(body.name, volume_of(body))
        return self.state()

    def add_point_interaction(self, body: Point) -> dict[str, Any]:
        """Click at a voxel of the object, or at one that is not of it."""
        return self._prompt("point", [body.coordinates], body)

    def add_bbox_interaction(self, body: BBox) -> dict[str, Any]:
        """Draw a box around the object, flat where the model segments planes."""
        if len(body.bbox) != 3 or any(len(ends) != 2 or ends[0] >= ends[1] for ends in body.bbox):
            raise ConfigError(f"A box is [[x, x], [y, y], [z, z]], first and one past the last; got {body.bbox!r:.80}.")
        return self._prompt("box", [[ends[0] for ends in body.bbox], [ends[1] - 1 for ends in body.bbox]], body)

    def add_scribble_interaction(self, body: Line) -> dict[str, Any]:
        """Draw a line within the object, or within what is not of it."""
        return self._prompt("scribble", body.points, body)

    def add_lasso_interaction(self, body: Line) -> dict[str, Any]:
        """Draw a closed line around the object, roughly."""
        return self._prompt("lasso", body.points, body)

    def add_initial_seg_interaction(self, body: InitialSegmentation) -> dict[str, Any]:
        """Make a mask the object; prompts that touch it correct it."""
        session = self._session(body.object)
        mask = array_of(body.initial_seg, session.volume.geometry.shape) != 0
        return self._said(session.set_object(mask, value=body.object, over=body.over))

    def paint(self, body: Stroke) -> dict[str, Any]:
        """Draw or erase with a round brush."""
        session = self._session(body.object)
        return self._said(
            session.paint(
                voxels(body.points),
                value=body.object,
                radius=body.radius,
                axis=body.axis,
                erase=body.erase,
                over=body.over,
            )
        )

    def interpolate(self, body: OfObject) -> dict[str, Any]:
        """Fill the planes between those that show the object."""
        return self._said(self.desk.session.interpolate(value=body.object, axis=body.axis, over=body.over))

    def propagate(self, body: Carry) -> dict[str, Any]:
        """Carry the object from a plane to the next ones."""
        options = {"axis": body.axis, "step": body.step, "most": body.most}
        return self._said(self.desk.session.propagate(body.index, value=body.object, over=body.over, **options))

    def predict(self) -> dict[str, Any]:
        """Ask the model about the prompts of the draft."""
        return self._said(self.desk.session.predict())

    def accept(self) -> dict[str, Any]:
        """Accept the draft."""
        return self._said(self.desk.session.accept())

    def discard(self) -> dict[str, Any]:
        """Drop the draft."""
        return self._said(self.desk.session.discard())

    def reset_interactions(self, body: OfObject) -> dict[str, Any]:
        """Drop the draft, and all of the object."""
        session = self._session(body.object)
        session.discard()
        nothing = np.zeros(session.volume.geometry.shape, bool)
        return self._said(session.set_object(nothing, value=body.object))

    def undo(self) -> dict[str, Any]:
        """Take back the last step."""
        return self._said(self.desk.session.undo())

    def redo(self) -> dict[str, Any]:
        """Take the last step again that was taken back."""
        return self._said(self.desk.session.redo())

    def name_object(self, body: Naming) -> dict[str, Any]:
        """Add an object, or rename one."""
        thing = self.desk.session.name_object(body.name, body.object)
        return self._said(Change()) | {"object": thing.value}

    def save(self) -> dict[str, Any]:
        """Accept the draft and write the label file."""
        return self._said(Change(note=f"saved to {self.desk.save()}"))

    def target_buffer(self) -> dict[str, Any]:
        """Return all labels, the draft in them."""
        return asdict(Block.of(self.desk.session.labels()))

    def nifti(self) -> bytes:
        """Return the first channel of the image as NIfTI, for the page."""
        volume = self.desk.session.volume
        values = volume.array[0]
        whole = INT16.min <= values.min() and values.max() <= INT16.max and not np.mod(values, 1).any()
        file = nibabel.Nifti1Image((values.astype(np.int16) if whole else values).T, affine_of(volume.geometry))
        return file.to_bytes()

    def _cases(self) -> list[dict[str, Any]]:
        return [{"name": name, "done": work.output.is_file()} for name, work in self.desk.works.items()]

    def _session(self, value: int) -> Session:
        """Return the session, with the first object in it for programs that know of one only."""
        session = self.desk.session
        if value == 1 and not session.state.objects:
            session.name_object()
        return session

    def _prompt(self, kind: str, points: list[list[int]], body: Interaction) -> dict[str, Any]:
        return self._said(
            self._session(body.object).add_prompt(
                kind,
                voxels(points),
                value=body.object,
                axis=body.axis,
                include=body.include_interaction,
                predict=body.run_prediction,
                over=body.over,
            )
        )

    def _said(self, change: Change) -> dict[str, Any]:
        return {"labels": encode(change.labels), "note": change.note, "state": self.state()}


READ = ("state", "progress", "target_buffer")
"""Verbs that change nothing."""
WRITE = tuple(name for name in vars(Verbs) if not name.startswith("_") and name not in (*READ, "nifti"))


def make_app(desk: Desk) -> FastAPI:
    """Make the application; whoever may speak with it is a `samunet.serving.guard.Guard`'s affair.

    Raises:
        ConfigError: the extra `annotate` is not installed.
    """
    try:
        from fastapi import Depends, FastAPI, Header, Response
        from fastapi.exceptions import RequestValidationError
        from fastapi.responses import JSONResponse
        from starlette.exceptions import HTTPException
    except ImportError:
        raise ConfigError(
            "Annotation needs FastAPI and uvicorn; install them: pip install 'samunet[annotate]'"
        ) from None

    app = FastAPI(title="samunet", version=samunet.__version__, description=__doc__, docs_url=None, redoc_url=None)
    verbs, page = Verbs(desk), files("samunet") / "serving" / "page"
    faults: dict[int | str, dict[str, Any]] = {code: {"model": Fault} for code in (400, 403, 404, 409, 413, 422, 500)}

    def fault(status: int, reason: str) -> JSONResponse:
        return JSONResponse({"error": reason}, status)

    @app.exception_handler(SamunetError)
    def refused(_: object, error: SamunetError) -> JSONResponse:
        return fault(409 if isinstance(error, InUseError) else 400, str(error))

    @app.exception_handler(OSError)
    def failed(_: object, error: OSError) -> JSONResponse:
        return fault(400, with_way_out(error))

    @app.exception_handler(Exception)  # and its traceback goes to the terminal
    def broken(_: object, error: Exception) -> JSONResponse:
        return fault(500, f"This failed: {in_words(error)}. The terminal says where.")

    @app.exception_handler(RequestValidationError)
    def misunderstood(_: object, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return fault(422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}.")

    @app.exception_handler(HTTPException)
    def unknown(_: object, error: HTTPException) -> JSONResponse:
        return fault(error.status_code, f"{error.detail}. The verbs are {', '.join((*READ, *WRITE))}.")

    async def of_case(x_case: str = Header("")) -> None:
        MEANT.set(unquote(x_case))  # for this request alone: each runs in a context of its own

    for names, method in ((READ, "GET"), (WRITE, "POST")):
        for name in names:
            meant = [Depends(of_case)] if method == "POST" and name != "set_image" else []
            app.add_api_route(f"/{name}", getattr(verbs, name), methods=[method], responses=faults, dependencies=meant)

    @app.get("/image.nii", include_in_schema=False)
    def image() -> Response:
        return Response(verbs.nifti(), media_type="application/octet-stream")

    def part_of_page(name: str) -> Response:
        return Response((page / (name or "index.html")).read_bytes(), media_type=PAGE[name])

    for name in PAGE:
        app.add_api_route(f"/{name}", lambda name=name: part_of_page(name), methods=["GET"], include_in_schema=False)
    return app


def _told(value: int, quality: float | None, prompts: Any) -> dict[str, Any]:
    shown = [
        {"kind": prompt.kind, "include": prompt.include, "points": [point[::-1] for point in prompt.points]}
        for prompt in prompts
    ]
    return {"object": value, "quality": quality, "prompts": shown}
