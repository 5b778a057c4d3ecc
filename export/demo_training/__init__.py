"""Training and evaluation of the demo model; not installed.

The steps of training, one file each:

    sampling ─▶ scenes ─▶ draw ─▶ pixels ┐
                  └─▶ captions ─▶ texts ─┴▶ batches ─▶ train ─▶ checkpoint ─▶ evaluate

The first steps are in `clipdex_export.demo`, which also draws the pictures of `make demo`.
"""
