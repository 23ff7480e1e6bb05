"""What runs an export on a device: numpy and an engine. Copy this folder there; it imports nothing outside itself.

from runtime.hubert import OnnxTranslator
text = OnnxTranslator("exported", engine="openvino").text(samples)
"""
