"""relprop in the words of other libraries: change an import, keep the rest.

Each module stands for one library and imports it only where its own classes are needed: `captum` (a true
`captum.attr.Attribution`), `quantus` (an `explain_func`), `zennit` (an attributor; zennit itself is not needed), and
`torchcam` (an `explain` whose result saves pictures).
"""
