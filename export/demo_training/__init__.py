"""Training and evaluation of the demo model; not part of what is installed.

The way of a training picture, one file a step:

    sampling ─▶ scenes ─▶ draw ─▶ pixels ┐
                  └─▶ captions ─▶ texts ─┴▶ batches ─▶ train ─▶ checkpoint ─▶ evaluate

The first steps are in `clipdex_export.demo`, which draws the pictures of `make demo` too.
"""
