from __future__ import annotations

from pathlib import Path

import pytest

from sim.inputs.errors import InputError
from sim.reading.measurements import read_measurements


def file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "times.csv"
    path.write_text(text)
    return path


def test_a_table_of_products_is_recognised_by_its_columns(tmp_path: Path) -> None:
    path = file(
        tmp_path,
        "system,framework,version,kernel,dtype,m,n,k,latency_us,tflops\n"
        "h100_sxm,vllm,0.24.0,x,bfloat16,64,8192,4096,24.5,1\n",
    )
    (one,) = read_measurements(path)
    assert (one.gpu, one.engine, one.op) == ("h100-sxm", "vllm", "gemm")
    assert (one.variant, one.shape) == ("bf16", "8192/4096")
    assert one.sizes == {"m": 64, "n": 8192, "k": 4096, "dtype": "bf16"}
    assert one.seconds == pytest.approx(24.5e-6)


def test_decode_tables_give_one_length_and_the_kernel_takes_their_sum(tmp_path: Path) -> None:
    header = "system,framework,batch,kv_len,heads,kv_heads,head_dim,attn_dtype,kv_dtype,latency_us\n"
    (one,) = read_measurements(file(tmp_path, header + "gb200,trtllm,4,1000,8,1,128,bf16,fp8,11\n"))
    assert one.sizes["kv_tokens"] == 4000
    assert (one.gpu, one.variant) == ("gb200", "fp8")


def test_a_step_of_one_kind_or_of_both_is_the_kernel_for_it(tmp_path: Path) -> None:
    header = "gpu,model,tp,heads,kv_heads,prefill_chunk,kv_prefill,n_decode,kv_decode,latency_us\n"
    rows = "rtx4090,m,1,32,8,0,0,4,100,10\nrtx4090,m,1,32,8,64,16,4,100,10\nrtx4090,m,1,32,8,64,16,0,0,10\n"
    decode, mixed, prefill = read_measurements(file(tmp_path, header + rows))
    assert (decode.op, decode.sizes["kv_tokens"]) == ("attention_decode", 400)
    assert (prefill.op, prefill.sizes["chunks"]) == ("attention_prefill", [(64, 16)])
    assert (mixed.op, mixed.sizes["batch"], mixed.sizes["chunks"]) == ("attention_mixed", 4, [(64, 16)])


def test_a_users_own_file_names_kernel_and_arguments(tmp_path: Path) -> None:
    text = (
        "gpu,kernel,latency_us,m,n,k,dtype,chunks,heads,kv_heads,head_dim\n"
        "h100-sxm,gemm,20.5,64,4096,4096,fp8,,,,\n"
        'h100-sxm,attention_prefill,30,,,,bf16,"[[512, 0], [64, 100]]",8,1,128\n'
    )
    product, attention = read_measurements(file(tmp_path, text))
    assert product.sizes == {"m": 64, "n": 4096, "k": 4096, "dtype": "fp8"}
    assert attention.sizes["chunks"] == [(512, 0), (64, 100)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "a,b\n1,2\n",
            "has columns that are not known: a, b; a file of your own needs gpu, kernel",
        ),
        ("gpu,kernel,latency_us,m\nh100-sxm,gemm,fast,1\n", ":2: a value makes no sense"),
        ("gpu,kernel,latency_us,m\nh100-sxm,gemm,-5,1\n", ":2: latency_us = -5: must be more than 0"),
        ("", "is empty"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_measurements(file(tmp_path, text))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_measurements(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("gemm,inf,1,64,64", "latency_us = inf: must be more than 0"),
        ("gemm,5,inf,64,64", "m = inf: must be from 0"),
        ("gemm,5,nan,64,64", "m = nan: must be from 0"),
        ("gemm,5,[],64,64", r"m = \[\]: must be a number or a word"),
        ("gemm,5,-1,64,64", "m = -1: must be from 0"),
    ],
)
def test_a_size_that_is_none_is_refused_with_its_line(tmp_path: Path, row: str, said: str) -> None:
    with pytest.raises(InputError, match=f":2: .*{said}"):
        read_measurements(file(tmp_path, f"gpu,kernel,latency_us,m,n,k\nh100-sxm,{row}\n"))


def test_a_batch_beyond_all_memory_is_refused(tmp_path: Path) -> None:
    header = "system,framework,batch,isl,past,heads,kv_heads,head_dim,attn_dtype,kv_dtype,latency_us\n"
    for batch in ("-1" + 30 * "0", "1" + 30 * "0"):
        with pytest.raises(InputError, match=r"batch = .*: must be from 0 to 1000000"):
            read_measurements(file(tmp_path, header + f"h100_sxm,vllm,{batch},256,0,32,8,128,bf16,bf16,62\n"))
