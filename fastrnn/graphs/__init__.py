"""What a graph holds of a layer, where something records it: a node of its own, or what ONNX has."""
