# CMake package of haqnas; `haqnas cmake-dir` prints the folder that it lies in.
#
#   find_package(haqnas REQUIRED)                  # cmake -Dhaqnas_DIR="$(haqnas cmake-dir)"
#   add_executable(app app.cpp)                    # app.cpp: #include "<model>.h"
#   haqnas_add_model(app path/to/artefact)
cmake_minimum_required(VERSION 3.20)

# Adds the model in <folder>, what `haqnas compile -o <folder>` wrote, to the C or C++ target <target>: its header, its
# library, and what that needs. Any number of models, and of targets with the same model.
function(haqnas_add_model target folder)
  if(NOT TARGET ${target})
    message(FATAL_ERROR "haqnas_add_model: ${target} is no target; call add_executable or add_library before")
  endif()
  get_filename_component(folder "${folder}" ABSOLUTE BASE_DIR "${CMAKE_CURRENT_SOURCE_DIR}")
  string(SHA256 key "${folder}")
  string(SUBSTRING ${key} 0 16 key)
  if(NOT TARGET haqnas_model_${key})
    haqnas_add_artifact(haqnas_model_${key} "${folder}")
  endif()
  target_link_libraries(${target} PRIVATE haqnas_model_${key})
endfunction()

# Adds <target>, the library of the model in <folder>, to be linked by target_link_libraries.
function(haqnas_add_artifact target folder)
  get_filename_component(folder "${folder}" ABSOLUTE BASE_DIR "${CMAKE_CURRENT_SOURCE_DIR}")
  set(manifest "${folder}/manifest.json")
  if(NOT EXISTS "${manifest}")
    message(FATAL_ERROR "haqnas_add_artifact: ${folder} is no artefact: it has no manifest.json; "
                        "make one with haqnas compile MODEL --target T --format exe,a -o ${folder}")
  endif()
  file(READ "${manifest}" text)
  string(JSON name ERROR_VARIABLE problem GET "${text}" name)
  if(problem)
    message(FATAL_ERROR "haqnas_add_artifact: ${manifest} does not name its model (${problem}); compile again")
  endif()
  set(library "${folder}/lib/lib${name}.a")
  if(NOT EXISTS "${library}")
    message(FATAL_ERROR "haqnas_add_artifact: ${library} is missing; compile with --format exe,a")
  endif()
  string(JSON threads ERROR_VARIABLE problem GET "${text}" threads)
  set(needs m)
  if(NOT problem AND threads GREATER 1) # manifests of older versions do not say
    find_package(Threads REQUIRED)
    list(APPEND needs Threads::Threads)
  endif()
  add_library(${target} STATIC IMPORTED GLOBAL)
  set_target_properties(
    ${target}
    PROPERTIES IMPORTED_LOCATION "${library}"
               IMPORTED_LINK_INTERFACE_LANGUAGES C
               INTERFACE_INCLUDE_DIRECTORIES "${folder}/include"
               INTERFACE_LINK_LIBRARIES "${needs}")
  # A new artefact in the same folder may have another name: configure again.
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${manifest}")
endfunction()
