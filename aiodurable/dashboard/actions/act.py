"""An action: its right, its page of confirmation, and what it does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiodurable.dashboard.authorization import Action
from aiodurable.dashboard.context import Context
from aiodurable.errors import InvalidArgumentError

__all__ = ["Act", "Confirmation", "Field", "Form", "Outcome", "number_of", "required"]

Form = Mapping[str, str]
"""The fields of a form that was sent."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a form.

    Attributes:
        name: of the field.
        label: for people.
        kind: `text`, `lines`, `number`, `integer`, `moment` or `choice`.
        value: what it holds at first.
        choices: values and their labels, of a choice.
        required: whether it may not be empty.
        help: a sentence below it.
    """

    name: str
    label: str
    kind: str = "text"
    value: str = ""
    choices: Sequence[tuple[str, str]] = ()
    required: bool = False
    help: str = ""


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What a person sees before an action.

    Attributes:
        heading: the action and what it is done to.
        button: the text of the button.
        back: where the link that does nothing leads.
        text: what will happen.
        facts: labels and values.
        fields: what the person fills in.
        hidden: what comes back as it is.
        listed: ids, shown one a line.
        more: how many are not listed.
        tree: a question, to be shown.
        note: what to look out for.
        dangerous: whether it removes something.
        possible: whether there is anything to do; without it there is no button.
        further: where the same page for what comes next in the order is; empty: this is the last.
        choose: whether this is the step before: its form only leads to the page that shows what
            would happen.
        action: where the form is sent; empty: to this address.
    """

    heading: str
    button: str
    back: str
    text: str = ""
    facts: Sequence[tuple[str, Any]] = ()
    fields: Sequence[Field] = ()
    hidden: Sequence[tuple[str, str]] = ()
    listed: Sequence[str] = ()
    more: int = 0
    tree: Any = None
    note: str = ""
    dangerous: bool = False
    possible: bool = True
    choose: bool = False
    further: str = ""
    action: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an action.

    Attributes:
        said: one sentence for the person.
        path: the page that follows, a link of `Context.url`.
        kind: `good` or `bad`.
        listed: of a bulk action: ids, and why it was not done to each.
        label: of the link to that page.
    """

    said: str
    path: str
    kind: str = "good"
    listed: Sequence[tuple[str, str]] = ()
    label: str = "Back"


def _nothing(context: Context, form: Form) -> Mapping[str, Any]:  # noqa: ARG001
    return {}


@dataclass(frozen=True, slots=True)
class Act:
    """An action.

    Attributes:
        recorded: its name in the audit table.
        right: what `authorize` is called with.
        label: on the button that leads to it.
        confirm: what a GET shows.
        perform: does it; called after the right was checked again and the action was recorded.
        details: what the record says beside thread and run; never a state or an answer.
        of_thread: whether it is done to the thread that the parameter `id` names.
    """

    recorded: str
    right: Action
    label: str
    confirm: Callable[[Context], Awaitable[Confirmation]]
    perform: Callable[[Context, Form], Awaitable[Outcome]]
    details: Callable[[Context, Form], Mapping[str, Any]] = _nothing
    of_thread: bool = True


def required(context: Context, name: str) -> str:
    """A parameter of the address as it is, with its spaces.

    Raises:
        InvalidArgumentError: it is missing.
    """
    found = context.request.query_params.get(name)
    if not found:
        raise InvalidArgumentError(
            f"cannot do this: the address has no {name}=; begin from a page of the dashboard",
            argument=name,
        )
    return found


def number_of(form: Form, name: str, kind: type[int | float], label: str) -> Any:
    """A number that a person wrote; None: nothing.

    Raises:
        InvalidArgumentError: it is no number.
    """
    text = form.get(name, "").strip()
    if not text:
        return None
    try:
        return kind(text)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise InvalidArgumentError(
            f"cannot use {text[:50]!r} as {label}: write {wanted}", argument=name
        ) from None
