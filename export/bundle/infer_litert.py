"""Runs the model with LiteRT (TensorFlow Lite)."""

from ai_edge_litert.interpreter import Interpreter


def load(path, model, threads):
    """A function from input array to logits."""
    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    interpreter.allocate_tensors()
    given, wanted = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run(x):
        interpreter.set_tensor(given, x)
        interpreter.invoke()
        return interpreter.get_tensor(wanted)

    return run
