#!/usr/bin/env bash
# Makes a Python 3.10 environment in which TensorFlow finds the emulated DirectML device by itself, or rebuilds the
# device in it:    bash emulator/build.sh [FOLDER, else .venv-emulator]
set -euo pipefail

project=$(cd "$(dirname "$0")/.." && pwd)
folder=$(realpath -m "${1:-$project/.venv-emulator}")
version=0.4.0.dev230202+emulated                                  # the plugin's, and a mark that it is not the plugin

fail() { echo "emulator/build.sh: $*" >&2; exit 1; }

# $PYTHON310, or pyenv's newest 3.10, or python3.10
find_python() {
  local newest
  if [ -n "${PYTHON310:-}" ]; then echo "$PYTHON310"; return; fi
  newest=$(pyenv versions --bare 2>/dev/null | grep -E '^3\.10\.[0-9]+$' | sort -V | tail -n 1) || true
  if [ -n "$newest" ]; then echo "$(pyenv prefix "$newest")/bin/python"; else command -v python3.10; fi
}

[ "$(uname -sm)" = "Linux x86_64" ] || fail "this is $(uname -sm); the emulated device is for x86-64 Linux"
command -v g++ > /dev/null || fail "no g++ here: install a C++ compiler (apt-get install g++)"

# ---- the environment: what a developer has, without the real plugin, which would be a second GPU platform
if ! [ -x "$folder/bin/python" ]; then
  python=$(find_python) || fail "no Python 3.10 here: install it, or name it: PYTHON310=/path/to/python3.10"
  "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 10))' || fail "$python is not a working Python 3.10"
  "$python" -m venv "$folder"
fi
python=$folder/bin/python
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
plugins=$site/tensorflow-plugins
[ ! -e "$plugins/libtfdml_plugin.so" ] || fail "$folder has the real plugin: name another folder"

wanted=$(cat "$project"/requirements{,-dev}.txt | grep -v -e '^-r ' -e '^tensorflow-directml-plugin')
installed=$folder/requirements.txt                                # written when pip is through, so it means: complete
if [ "$wanted" != "$(cat "$installed" 2> /dev/null)" ]; then
  "$python" -m pip install --quiet --disable-pip-version-check -r <(echo "$wanted")
  echo "$wanted" > "$installed"
fi

# ---- the device: compiled as TensorFlow's wheel was (tf.sysconfig.get_compile_flags)
mkdir -p "$plugins"
g++ -shared -fPIC -std=c++17 -O1 -Wall -D_GLIBCXX_USE_CXX11_ABI=1 -DEIGEN_MAX_ALIGN_BYTES=64 \
  -isystem "$site/tensorflow/include" "$project"/emulator/{device,kernels}.cc -o "$plugins/being-built" \
  -L"$site/tensorflow" -l:libtensorflow_framework.so.2
cp "$project/vision_transformer/directml_kernels.pbtxt" "$plugins"
mv -f "$plugins/being-built" "$plugins/libdirectml_emulated.so"   # a process that has loaded the old one keeps it

# ---- what pip and importlib.metadata read; hashes and sizes may be left out of RECORD
record=tensorflow_directml_plugin-$version.dist-info
mkdir -p "$site/$record"
cat > "$site/$record/METADATA" << END
Metadata-Version: 2.1
Name: tensorflow-directml-plugin
Version: $version
Summary: Not the plugin: an emulated DirectML device for tests
END
echo "emulator/build.sh" > "$site/$record/INSTALLER"
printf '%s,,\n' tensorflow-plugins/{libdirectml_emulated.so,directml_kernels.pbtxt} \
  "$record"/{METADATA,INSTALLER,RECORD} > "$site/$record/RECORD"

echo "built; now: $python -m pytest -m emulator"
