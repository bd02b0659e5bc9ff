"""Points that exist already: .pts, OpenFace, CSV, .npz and others, matched to photos."""
