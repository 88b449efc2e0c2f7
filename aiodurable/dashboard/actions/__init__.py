"""What people do with the dashboard.

Each action has a page of its own below `/act/`. A GET shows what would happen, with a form, and
changes nothing. The POST of that form checks again: the form's token, the right to this action on
this thread, and whatever the library itself refuses. Then it is recorded, and then done; where it
is refused after all, that is recorded, too (`audited`).
"""
